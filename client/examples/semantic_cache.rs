//! A semantic cache in front of a model. `LOCI_ADDRESS` says where the node is.

use std::time::Duration;

use loci_client::{Answer, Client, Entry, Error, Metric, Partition};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let address = std::env::var("LOCI_ADDRESS").unwrap_or_else(|_| "127.0.0.1:7700".into());
    // [the example of docs/semantic-cache.md
    let client = Client::connect(address).await?;
    let cache = client.semantic_cache("default", "answers").threshold(0.1).margin(0.2);
    cache.ensure(3, Metric::Cosine).await?;

    // Answers are never given across partitions.
    let acme = Partition::new().with("tenant", "acme").with("model", "small");
    let other = Partition::new().with("tenant", "other").with("model", "small");

    // In place of these, embeddings of questions.
    let (sundays, weekends, parking) = ([0.9, 0.1, 0.0], [0.9, 0.15, 0.05], [0.5, 0.4, 0.1]);

    let entry = Entry::new(sundays, "Closed on Sundays.")
        .with_question("Is the harbour open on Sundays?")
        .with_tag("harbour-hours")
        .expires_in(Duration::from_secs(3600));
    cache.put(&acme, entry).await?;

    match cache.get(&acme, weekends).await? {
        Answer::Hit(hit) => println!("hit at {:.3}: {}", hit.distance, hit.text().unwrap_or("-")),
        _ => println!("ask the model"),
    }
    match cache.get(&acme, parking).await? {
        Answer::NearMiss(near) => println!("near miss at {:.3}: {}", near.distance, near.question.unwrap_or_default()),
        other => println!("{other:?}"),
    }
    assert_eq!(cache.get(&other, sundays).await?, Answer::Miss);

    // The hours have changed: everything that was answered from them is dropped, at once.
    let dropped = cache.drop_tagged(["harbour-hours"]).await?;
    println!("dropped {}", dropped.entries);
    assert_eq!(cache.get(&acme, sundays).await?, Answer::Miss);
    // the example ends]
    Ok(())
}
