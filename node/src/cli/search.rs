//! `search`: what to find, what to make of it, and how it is shown.
//!
//! Each of `--vector`, `--like`, `--text`, `--sparse` and `--prefer` is a query; several of them are put together by
//! `--fuse`. The rest holds for what comes of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Args};
use loci_client::{Decay, Diversity, Explanation, Filter, Fusion, Hit, MissingShard, Query, Recommend};
use serde_json::{Value as Json, json};

use super::connect::{Connection, duration, filter};
use super::explain;
use super::failure::Failure;
use super::json::{record_to_json, value_to_json};
use super::output::{Rows, attributes_shown, bytes_shown, print, print_json, value_shown};
use super::records::{FILTER_HELP, sparse_weights, vectors};
use super::time;

#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP, group(ArgGroup::new("what").required(true).multiple(true).args(QUERIES)))]
pub struct SearchArgs {
    /// The collection.
    collection: String,
    #[command(flatten)]
    what: What,
    /// How many hits, or with --group-by how many groups.
    #[arg(short, default_value_t = 10)]
    k: u32,
    /// Only records that this takes.
    #[arg(long, value_parser = filter)]
    filter: Option<Filter>,
    /// How many candidates to keep: more finds more and takes longer. The node chooses unless this does.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    ef: u32,
    /// Compare with every record.
    #[arg(long)]
    exact: bool,
    /// Only hits at most this far.
    #[arg(long, allow_negative_numbers = true)]
    max_distance: Option<f32>,
    /// Only hits at least this far.
    #[arg(long, allow_negative_numbers = true)]
    min_distance: Option<f32>,
    /// Only hits of at least this score, where hits have one: with --text, --fuse and --decay.
    #[arg(long, allow_negative_numbers = true)]
    min_score: Option<f32>,
    /// At most so many hits (1 unless said) for each value of this attribute: PATH or PATH:HITS.
    #[arg(long, value_name = "PATH[:HITS]", value_parser = group)]
    group_by: Option<(String, u32)>,
    /// Hits that are good and unlike each other (maximal marginal relevance): from 0, only unlike, to 1, only good.
    #[arg(long, value_name = "LAMBDA", conflicts_with = "group_by")]
    mmr: Option<f32>,
    /// Older records lose score: the timestamp's path and after how long half is left, such as seen:7d.
    #[arg(long, value_name = "PATH:HALF-LIFE", value_parser = decay)]
    decay: Option<(String, Duration)>,
    /// Which part of the score age can take away, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, requires = "decay")]
    decay_share: f32,
    /// The moment that age is counted to, such as 2026-01-31T12:00:00Z; the node's clock unless this says.
    #[arg(long, value_name = "MOMENT", value_parser = moment, requires = "decay")]
    decay_to: Option<SystemTime>,
    /// How many of the best hits --mmr and --decay look at. The node chooses unless this does.
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    candidates: u32,
    /// Where some of the collection's shards cannot be asked, answer of the others, and say which could not.
    #[arg(long)]
    partial: bool,
    /// Show how the hits were found: what was chosen for each part of the collection, why, and what it cost.
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    connection: Connection,
}

/// What hits are like.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to find")]
#[group(skip)]
pub struct What {
    /// Near this vector: a JSON list, or a .json or .npy file whose rows each are a query.
    #[arg(long, value_name = "VECTOR")]
    vector: Option<String>,
    /// Near the record with this key.
    #[arg(long, value_name = "KEY")]
    like: Option<String>,
    /// With these words.
    #[arg(long, value_name = "WORDS")]
    text: Option<String>,
    /// Near this sparse vector: {"DIMENSION": WEIGHT, ..}.
    #[arg(long, value_name = "WEIGHTS")]
    sparse: Option<String>,
    /// Near the records with these keys together. May be given again and again.
    #[arg(long, value_name = "KEY")]
    prefer: Vec<String>,
    /// And not near the records with these. May be given again and again.
    #[arg(long, value_name = "KEY", requires = "prefer")]
    avoid: Vec<String>,
    /// Prefer what is near to any of the keys, and not nearer to one to avoid, rather than what is near their mean.
    #[arg(long, requires = "prefer")]
    prefer_any: bool,
    /// Which embedding, if the collection has several.
    #[arg(long, default_value = "", hide_default_value = true)]
    embedding: String,
    /// Which text, if the collection declares several.
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true, requires = "text")]
    text_path: String,
    /// Which sparse embedding, if the collection has several.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, requires = "sparse")]
    sparse_name: String,
    /// How several of the above are put together: by their places (rrf, or rrf:K for another K than 60) or by their
    /// values (weighted).
    #[arg(long, value_name = "rrf|weighted", value_parser = fusion)]
    fuse: Option<FuseBy>,
    /// What one of them counts: text=2, vector=0.5. May be given again and again.
    #[arg(long, value_name = "QUERY=WEIGHT", value_parser = weight, requires = "fuse")]
    weight: Vec<(String, f32)>,
    /// How many hits of each take part. 100 unless said, or as many as -k.
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true, requires = "fuse")]
    each: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FuseBy {
    ReciprocalRank(f32),
    Weighted,
}

fn fusion(text: &str) -> Result<FuseBy, String> {
    match text.split_once(':') {
        None if text == "rrf" => Ok(FuseBy::ReciprocalRank(60.0)),
        None if text == "weighted" => Ok(FuseBy::Weighted),
        Some(("rrf", k)) => k.parse().map(FuseBy::ReciprocalRank).map_err(|_| format!("{k:?} is not a number")),
        _ => Err("write rrf, rrf:K or weighted".into()),
    }
}

const QUERIES: [&str; 5] = ["vector", "like", "text", "sparse", "prefer"];

fn weight(text: &str) -> Result<(String, f32), String> {
    let Some((name, weight)) = text.split_once('=').filter(|(name, _)| QUERIES.contains(name)) else {
        return Err(format!("write QUERY=WEIGHT, where QUERY is one of {}", QUERIES.join(", ")));
    };
    let weight = weight.parse().map_err(|_| format!("{weight:?} is not a number"))?;
    Ok((name.to_owned(), weight))
}

fn group(text: &str) -> Result<(String, u32), String> {
    match text.rsplit_once(':') {
        Some((path, hits)) => {
            let hits = hits.parse().map_err(|_| format!("{hits:?} is not a number of hits"))?;
            Ok((path.to_owned(), hits))
        }
        None => Ok((text.to_owned(), 1)),
    }
}

fn decay(text: &str) -> Result<(String, Duration), String> {
    let (path, half_life) = text.rsplit_once(':').ok_or("write PATH:HALF-LIFE, such as seen:7d")?;
    Ok((path.to_owned(), duration(half_life)?))
}

fn moment(text: &str) -> Result<SystemTime, String> {
    let micros = time::parse(text).and_then(|micros| u64::try_from(micros).ok());
    let micros = micros.ok_or_else(|| format!("{text:?} is not a moment such as 2026-01-31T12:00:00Z"))?;
    Ok(UNIX_EPOCH + Duration::from_micros(micros))
}

impl What {
    /// Each query with its name, in the order of `QUERIES`; a file of vectors is several.
    fn queries(&self) -> Result<Vec<(&'static str, Query)>, Failure> {
        let mut queries = Vec::new();
        if let Some(vector) = &self.vector {
            let vectors = vectors(vector, "--vector")?;
            queries.extend(vectors.into_iter().map(|vector| ("vector", Query::near(vector))));
        }
        if let Some(key) = &self.like {
            queries.push(("like", Query::near_key(key.clone())));
        }
        if let Some(words) = &self.text {
            queries.push(("text", Query::text(&self.text_path, words)));
        }
        if let Some(weights) = &self.sparse {
            let query = Query::near_sparse(sparse_weights(weights, "--sparse")?);
            queries.push(("sparse", query.embedding(&self.sparse_name)));
        }
        if !self.prefer.is_empty() {
            let new = if self.prefer_any { Recommend::new().by_nearest() } else { Recommend::new() };
            let liked = self.prefer.iter().fold(new, |all, key| all.like_key(key.clone()));
            queries.push(("prefer", self.avoid.iter().fold(liked, |all, key| all.unlike_key(key.clone())).into()));
        }
        Ok(queries)
    }

    /// The queries to ask: all as one if they are fused.
    fn asked(&self) -> Result<Vec<Query>, Failure> {
        let queries = self.queries()?;
        let count = |name: &str| queries.iter().filter(|(other, _)| *other == name).count();
        let kinds = QUERIES.iter().filter(|name| count(name) > 0).count();
        match self.fuse {
            None if kinds > 1 => Err(Failure::usage(
                "several queries: say how they are put together, with --fuse rrf or --fuse weighted",
            )),
            None => Ok(queries.into_iter().map(|(_, query)| query).collect()),
            Some(_) if count("vector") > 1 => {
                Err(Failure::usage("--vector has several rows; with --fuse it may have one"))
            }
            Some(by) => {
                let fusion = match by {
                    FuseBy::ReciprocalRank(k) => Fusion::reciprocal_rank_of(k),
                    FuseBy::Weighted => Fusion::weighted(),
                };
                if let Some((name, _)) = self.weight.iter().find(|(name, _)| count(name) == 0) {
                    return Err(Failure::usage(format!("--weight {name}: there is no --{name}")));
                }
                let parts = queries.into_iter().map(|(name, query)| {
                    let weight = self.weight.iter().rev().find(|(other, _)| other == name).map_or(1.0, |(_, w)| *w);
                    query.limit(self.each).weight(weight)
                });
                Ok(vec![parts.fold(fusion, Fusion::and).into()])
            }
        }
    }
}

pub async fn search(args: SearchArgs) -> Result<(), Failure> {
    let collection = args.connection.collection(&args.collection)?;
    let mut search =
        collection.search_many().embedding(&args.what.embedding).k(args.k).filter(args.filter.clone()).ef(args.ef);
    for query in args.what.asked()? {
        search = search.query(query);
    }
    if args.exact {
        search = search.exact();
    }
    if let Some(distance) = args.max_distance {
        search = search.max_distance(distance);
    }
    if let Some(distance) = args.min_distance {
        search = search.min_distance(distance);
    }
    if let Some(score) = args.min_score {
        search = search.min_score(score);
    }
    if let Some((path, hits)) = &args.group_by {
        search = search.group_by(path, *hits);
    }
    if let Some(lambda) = args.mmr {
        let embedding = args.what.embedding.clone();
        search = search.diverse(Diversity { lambda, candidates: args.candidates, embedding });
    }
    if let Some((path, half_life)) = &args.decay {
        let (share, now, candidates) = (args.decay_share, args.decay_to, args.candidates);
        let decay = Decay { share, now, candidates, ..Decay::new(path, *half_life) };
        search = search.decay(decay);
    }
    if args.explain {
        search = search.explain();
    }
    if args.partial {
        search = search.partial();
    }
    let found = search.found().await.map_err(|error| Failure::call(&args.collection, error))?;
    if args.connection.json {
        let explanations = found.explanations.iter().map(Some).chain(std::iter::repeat(None));
        let queries = found.queries.iter().zip(explanations);
        let queries: Vec<Json> = queries.map(|(hits, explanation)| hits_json(hits, explanation)).collect();
        let missing = |missing: &MissingShard| json!({ "shard": missing.shard, "reason": missing.reason });
        return match found.missing.is_empty() {
            true => print_json(&json!({ "queries": queries })),
            false => {
                let missing: Vec<Json> = found.missing.iter().map(missing).collect();
                print_json(&json!({ "queries": queries, "missing": missing }))
            }
        };
    }
    for (number, hits) in found.queries.iter().enumerate() {
        if found.queries.len() > 1 {
            print(format!("{}query {number}", if number > 0 { "\n" } else { "" }))?;
        }
        print(hits_table(hits))?;
        if let Some(explanation) = found.explanations.get(number) {
            print(format!("\n{}", explain::shown(explanation)))?;
        }
    }
    for missing in &found.missing {
        print(format!("shard {} is missing: {}", missing.shard, missing.message))?;
    }
    Ok(())
}

fn hits_json(hits: &[Hit], explanation: Option<&Explanation>) -> Json {
    let hit_json = |hit: &Hit| {
        let mut json = json!({"distance": hit.distance, "record": record_to_json(&hit.record)});
        if let Some(score) = hit.score {
            json["score"] = json!(score);
        }
        if let Some(group) = &hit.group {
            json["group"] = value_to_json(group);
        }
        json
    };
    let hits: Vec<Json> = hits.iter().map(hit_json).collect();
    match explanation {
        Some(explanation) => json!({ "hits": hits, "explanation": explain::to_json(explanation) }),
        None => json!({ "hits": hits }),
    }
}

/// Hits, best first. Of score and distance, what says something.
fn hits_table(hits: &[Hit]) -> String {
    let scored = hits.iter().any(|hit| hit.score.is_some());
    let measured = !scored || hits.iter().any(|hit| hit.score.is_none_or(|score| score != -hit.distance));
    let grouped = hits.iter().any(|hit| hit.group.is_some());
    let columns = [(grouped, "group"), (scored, ">score"), (measured, ">distance")];
    let columns = columns.into_iter().filter(|(shown, _)| *shown).map(|(_, name)| name);
    let mut rows = Rows::new(&columns.chain(["key", "value", "attributes"]).collect::<Vec<_>>());
    for hit in hits {
        let mut cells = Vec::new();
        if grouped {
            cells.push(hit.group.as_ref().map_or(String::new(), value_shown));
        }
        if scored {
            cells.push(hit.score.map_or(String::new(), |score| format!("{score:.4}")));
        }
        if measured {
            cells.push(format!("{:.4}", hit.distance));
        }
        cells.push(bytes_shown(&hit.record.key, 60));
        cells.push(hit.record.value.as_ref().map_or(String::new(), |value| bytes_shown(value, 200)));
        cells.push(attributes_shown(&hit.record));
        rows.push(cells);
    }
    rows.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_hold_two_things_say_what_is_wrong_with_them() {
        assert_eq!(fusion("rrf"), Ok(FuseBy::ReciprocalRank(60.0)));
        assert_eq!(fusion("rrf:20"), Ok(FuseBy::ReciprocalRank(20.0)));
        assert_eq!(fusion("weighted"), Ok(FuseBy::Weighted));
        assert!(fusion("rrf:x").is_err() && fusion("sum").is_err());
        assert_eq!(weight("text=2"), Ok(("text".into(), 2.0)));
        assert!(weight("words=2").is_err() && weight("text").is_err() && weight("text=x").is_err());
        assert_eq!(group("source"), Ok(("source".into(), 1)));
        assert_eq!(group("author.name:3"), Ok(("author.name".into(), 3)));
        assert!(group("a:b").is_err());
        assert_eq!(decay("seen:7d"), Ok(("seen".into(), Duration::from_secs(7 * 24 * 3600))));
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(UNIX_EPOCH + Duration::from_secs(1)));
        assert!(moment("soon").is_err());
        assert!(decay("seen").is_err() && decay("seen:soon").is_err());
    }
}
