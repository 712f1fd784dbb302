//! Searches over shards that are on several nodes: each shard finds what the leaves of the queries ask for, side by side, and the
//! answers are made here, of the best of all.
//!
//! ```text
//!   queries --> leaves --1 records that are searched near to--> their embeddings (get)
//!                 |    --2 words, counted in each shard-------> the sums
//!                 |    --3 the best hit of each group---------> which groups come first, if more of their hits are wanted
//!                 '-------4 what each shard finds-------------> the best of all, for each leaf --finish--> hits
//! ```
//!
//! A search has as many of these rounds as it needs: most have the last one only. What is made of leaves' hits (fusion, decay, groups,
//! hits unlike each other) is made by the very code that makes it on one node ([`CollectionView::finish`]), with as many candidates; so
//! the answer is the same, but where graphs are walked.
//!
//! Always: a shard that cannot be asked fails the search, or, if the request allows for parts, is named as missing and not asked in
//! a later round; but with a record in it that is searched near to, which is said. A round reads each shard as new as asked, and not all rounds the same moment: a record that changes between two is
//! found as it is in the last. What all shards say in a round is bounded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use loci_index::ask::{Ask, AskError, Group, Leaf};
use loci_index::attributes::{self, Attributes};
use loci_index::command::Schema;
use loci_index::text::Corpus;
use loci_index::view::{Carried, CollectionView, Hit, SearchScratch, View};
use loci_wire::v1;
use loci_wire::v1::pipeline_reply::Reply;
use loci_wire::v1::pipeline_request::Call;
use tonic::Code;

use super::super::ask::Common;
use super::super::calls::{Budget, Calls, REPLY_BYTES_MAX, too_large_reply};
use super::super::convert::{self, Parts};
use super::super::home::{Name, check_token, find};
use super::super::status::Failure;
use super::leaves::{as_compared, corpus_reply, is_by_words, keys, own_corpus, split};
use super::{Far, Patience, Question, Said, joined, other_reply};
use crate::router::Route;
use crate::shard::Level;

/// How long a search that does without a shard looks for a node that has it.
const LOOK_TIME_PARTIAL: Duration = Duration::from_secs(1);
/// How many records are fetched at a time to search near to.
const KEYS_AT_ONCE: usize = 1_000;

/// So many hits are put together in less time than it takes to wake another thread.
const SHORT_HITS: usize = 256;

/// Whether a shard cannot answer, rather than that the search cannot be.
fn is_missing(failure: &Failure) -> bool {
    matches!(failure.code, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::DataLoss)
}

/// What finishing looks at, of each record.
struct Needs {
    /// Attributes by the first name of their paths.
    attributes: Vec<String>,
    /// Embeddings by their numbers: name and dimension.
    embeddings: BTreeMap<u16, (String, usize)>,
}

impl Needs {
    fn new(asks: &[Ask], schema: &Schema) -> Needs {
        let of_decay = asks.iter().filter_map(|ask| ask.decay.as_ref()?.path.first());
        let of_group = asks.iter().filter_map(|ask| ask.group.as_ref()?.path.first());
        let mut attributes: Vec<String> = of_decay.chain(of_group).cloned().collect();
        attributes.sort();
        attributes.dedup();
        let fields = asks.iter().filter_map(|ask| Some(ask.mmr.as_ref()?.field));
        let embeddings = fields.filter_map(|field| {
            let spec = schema.embeddings.get(usize::from(field))?;
            Some((field, (spec.name.clone(), spec.dimension as usize)))
        });
        Needs { embeddings: embeddings.collect(), attributes }
    }

    /// As much of a record as that.
    fn carried(&self, record: &v1::Record) -> Result<Carried, Failure> {
        let named =
            self.attributes.iter().filter_map(|name| Some((name.clone(), record.attributes.get(name)?.clone())));
        let wanted: Attributes = convert::own_attributes(named.collect())?;
        let encoded = if wanted.is_empty() { Some(Vec::new()) } else { attributes::encode(&wanted).ok() };
        let mut embeddings = Vec::new();
        for (field, (name, dimension)) in &self.embeddings {
            embeddings.resize_with(usize::from(*field), || None);
            let own = record.embeddings.iter().find(|embedding| embedding.name == *name);
            embeddings.push(own.and_then(|own| as_compared(&own.vector, *dimension)).map(Vec::into_boxed_slice));
        }
        Ok(Carried::new(&record.key, encoded.ok_or_else(other_reply)?, embeddings))
    }
}

/// What a round brought.
struct Brought {
    replies: Vec<v1::FindReply>,
    /// The records of each reply.
    carried: Vec<Vec<Carried>>,
}

impl Brought {
    fn new(replies: Vec<v1::FindReply>, needs: &Needs) -> Result<Brought, Failure> {
        let carried = |reply: &v1::FindReply| reply.records.iter().map(|record| needs.carried(record)).collect();
        let carried = replies.iter().map(carried).collect::<Result<_, Failure>>()?;
        Ok(Brought { replies, carried })
    }

    /// The best of what all shards found for the leaf at this place of the round.
    fn best(&self, place: usize, leaf: &Leaf<'_>) -> Result<Vec<Hit<'_>>, Failure> {
        let mut hits = Vec::new();
        for (reply, records) in self.replies.iter().zip(&self.carried) {
            let found = reply.leaves.get(place).ok_or_else(other_reply)?;
            let scored = !found.scores.is_empty();
            if found.distances.len() != found.records.len() || (scored && found.scores.len() != found.records.len()) {
                return Err(other_reply());
            }
            for (number, (record, distance)) in found.records.iter().zip(&found.distances).enumerate() {
                let record = records.get(*record as usize).ok_or_else(other_reply)?.record();
                hits.push(Hit { distance: *distance, score: found.scores.get(number).copied(), group: None, record });
            }
        }
        Ok(leaf.best_of(hits))
    }
}

/// A search under way.
struct Search<'c> {
    calls: &'c Calls,
    name: Name,
    request: v1::SearchRequest,
    /// The catalog, which has the collection's rules.
    catalog: Arc<View>,
    /// What each query means.
    asks: Arc<Vec<Ask>>,
    /// The leaves of all queries, one after the other, and whose each is.
    leaves: Vec<v1::Leaf>,
    queries: Vec<usize>,
    /// Where keys are.
    route: Route,
    /// The shards that have answered so far.
    shards: Vec<u32>,
    missing: Vec<v1::MissingShard>,
    /// How each query was answered.
    explanations: Vec<v1::Explanation>,
    deadline: Instant,
}

impl Calls {
    /// The best hits of all shards.
    pub async fn search_far(
        &self,
        far: Far,
        name: Name,
        request: v1::SearchRequest,
        deadline: Instant,
    ) -> Result<v1::SearchReply, Failure> {
        check_token(request.consistency.as_ref(), &far.shards)?;
        let mut catalog = self.cluster.catalog().newest();
        if find(&catalog, &name).is_err() {
            catalog = self.cluster.catalog().view(Level::Latest, Some(deadline)).await?;
        }
        let collection = find(&catalog, &name)?;
        let common = Common { now: self.cluster.catalog().now(&catalog), ..Common::new(&request)? };
        let (mut asks, mut leaves, mut queries) = (Vec::new(), Vec::new(), Vec::new());
        for (number, query) in request.queries.iter().enumerate() {
            let ask = common.ask(query.clone(), collection.schema()).map_err(|failure| failure.number(number))?;
            ask.check().map_err(|error| Failure::from(AskError::from(error)).number(number))?;
            leaves.extend(split(&request, query, &ask));
            queries.resize(leaves.len(), number);
            asks.push(ask);
        }
        let explanations = vec![v1::Explanation::default(); asks.len()];
        let Far { route, shards } = far;
        let (asks, missing) = (Arc::new(asks), Vec::new());
        let mut search = Search {
            calls: self,
            name,
            request,
            catalog,
            asks,
            leaves,
            queries,
            route,
            shards,
            missing,
            explanations,
            deadline,
        };
        search.resolve().await?;
        search.count().await?;
        search.choose_groups().await?;
        search.answer().await
    }
}

impl Search<'_> {
    fn collection(&self) -> Result<CollectionView<'_>, Failure> {
        find(&self.catalog, &self.name)
    }

    /// Gives leaves the embeddings of the records that they are to be near to, which may be in any shard.
    async fn resolve(&mut self) -> Result<(), Failure> {
        let mut known: BTreeMap<Bytes, Option<Vec<v1::Embedding>>> = BTreeMap::new();
        known.extend(self.leaves.iter().flat_map(keys).map(|key| (key, None)));
        if known.is_empty() {
            return Ok(());
        }
        let mut bytes = 0;
        let all: Vec<Bytes> = known.keys().cloned().collect();
        for keys in all.chunks(KEYS_AT_ONCE) {
            let mut shares: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
            keys.iter().for_each(|key| shares.entry(self.route.shard(key)).or_default().push(key.clone()));
            let shards: Vec<u32> = shares.keys().copied().collect();
            let get = |shard: u32| v1::GetRequest {
                collection: self.request.collection.clone(),
                keys: shares.get(&shard).cloned().unwrap_or_default(),
                parts: Some(v1::Parts { value: false, attributes: false, embeddings: true }),
                consistency: self.request.consistency.clone(),
            };
            let question = |shard| Question::Call(Box::new(Call::Get(Box::new(get(shard)))));
            let said = self.calls.ask_all(&shards, self.patience(), question, |failure| self.forgives(failure)).await?;
            for ((shard, keys), said) in shares.iter().zip(said) {
                let found = match said {
                    Ok(Said::Reply(Reply::Get(found))) => found.records,
                    Ok(_) => return Err(other_reply()),
                    // One that is only busy has it a moment later.
                    Err(failure) if failure.code == Code::ResourceExhausted => return Err(failure),
                    Err(failure) => return Err(self.example_away(*shard, keys, &failure)),
                };
                for (key, found) in keys.iter().zip(found) {
                    let embeddings = found.record.map(|record| record.embeddings);
                    bytes += embeddings.iter().flatten().map(prost::Message::encoded_len).sum::<usize>();
                    known.insert(key.clone(), embeddings);
                }
            }
            if bytes > REPLY_BYTES_MAX {
                return Err(too_large_reply());
            }
        }
        let schema = self.collection()?.schema().clone();
        for (leaf, number) in self.leaves.iter_mut().zip(&self.queries) {
            let name = leaf.query.as_ref().map(|query| query.name.clone()).unwrap_or_default();
            for key in keys(leaf) {
                let unknown = || Failure::from(AskError::UnknownRecord(key.to_vec())).number(*number);
                let embeddings = known.get(&key).and_then(Option::as_ref).ok_or_else(unknown)?;
                let field = convert::field(&schema, &name).map_err(|failure| failure.number(*number))?;
                let name = schema.embeddings.get(usize::from(field)).map(|spec| spec.name.clone()).unwrap_or_default();
                let own = embeddings.iter().find(|embedding| embedding.name == name);
                let none =
                    || Failure::from(AskError::NoEmbedding { key: key.to_vec(), name: name.clone() }).number(*number);
                let vector = own.ok_or_else(none)?.vector.clone();
                leaf.embeddings.push(v1::Embedding { vector, ..v1::Embedding::default() });
            }
        }
        Ok(())
    }

    /// Without the records that it is to be near to, a query asks for nothing, and no part of its answer is one.
    fn example_away(&self, shard: u32, keys: &[Bytes], failure: &Failure) -> Failure {
        let is_named = |leaf: &v1::Leaf| self::keys(leaf).into_iter().find(|key| keys.contains(key));
        let named = self.leaves.iter().zip(&self.queries).find_map(|(leaf, query)| Some((is_named(leaf)?, *query)));
        let (key, query) = named.unwrap_or_default();
        let message = format!(
            "record {:?}, which is to be searched near to, is in shard {shard}, which cannot answer: {}; without it there is nothing \
             to search for, not in the other shards either",
            String::from_utf8_lossy(&key),
            failure.message
        );
        Failure::new(Code::FailedPrecondition, "example_away", message).number(query)
    }

    /// How long a round may take.
    fn patience(&self) -> Patience {
        let now = Instant::now();
        match self.request.partial {
            false => Patience::until(self.deadline),
            // Whoever does without some wants the others, and not to wait for all of the time there is.
            true => {
                Patience { look: LOOK_TIME_PARTIAL, deadline: now + self.deadline.saturating_duration_since(now) / 2 }
            }
        }
    }

    /// Whether the search does without a shard that fails so.
    fn forgives(&self, failure: &Failure) -> bool {
        self.request.partial && is_missing(failure)
    }

    /// Counts words over all shards.
    async fn count(&mut self) -> Result<(), Failure> {
        let numbers = self.numbers(is_by_words);
        if numbers.is_empty() {
            return Ok(());
        }
        let leaves = numbers.iter().map(|number| self.leaves[*number].clone()).collect();
        let replies = self.round(&numbers, leaves, Parts { value: false, attributes: false, embeddings: false }, true);
        let replies = replies.await?;
        for (place, number) in numbers.into_iter().enumerate() {
            let mut all: Option<Corpus> = None;
            for reply in &replies {
                let counted = own_corpus(reply.leaves[place].corpus.clone().ok_or_else(other_reply)?);
                match &mut all {
                    None => all = Some(counted),
                    // Nodes of other versions may know other words.
                    Some(all) if all.with_word.len() != counted.with_word.len() => {
                        return Err(AskError::CountedOtherwise.into());
                    }
                    Some(all) => all.join(&counted),
                }
            }
            self.leaves[number].corpus = all.map(corpus_reply);
        }
        Ok(())
    }

    /// Where several hits of each group are wanted, asks which groups come first, and narrows the leaves to these: what is best in one
    /// shard may be none of another shard's best.
    async fn choose_groups(&mut self) -> Result<(), Failure> {
        let several = |group: &v1::GroupBy| group.hits > 1;
        let numbers = self.numbers(|leaf| leaf.group_by.as_ref().is_some_and(several));
        if numbers.is_empty() {
            return Ok(());
        }
        let one_each = |number: &usize| {
            let leaf = self.leaves[*number].clone();
            v1::Leaf { group_by: leaf.group_by.map(|group| v1::GroupBy { hits: 1, ..group }), ..leaf }
        };
        let leaves = numbers.iter().map(one_each).collect();
        let parts = Parts { value: false, attributes: true, embeddings: false };
        let replies = self.round(&numbers, leaves, parts, false).await?;
        let (asks, queries) = (Arc::clone(&self.asks), numbers.iter().map(|number| self.queries[*number]));
        let queries: Vec<usize> = queries.collect();
        let needs = Needs { embeddings: BTreeMap::new(), ..Needs::new(&self.asks, self.collection()?.schema()) };
        let chosen = self.calls.search.run(self.deadline, move |_, _| {
            let brought = Brought::new(replies, &needs)?;
            let values = queries.iter().enumerate().map(|(place, query)| {
                let leaves = asks[*query].leaves();
                // What is grouped while it is searched has one leaf.
                let leaf = leaves.into_iter().next().ok_or_else(other_reply)?;
                let group = leaf.group.as_deref().map(|group| Cow::Owned(Group { hits: 1, ..group.clone() }));
                let heads = brought.best(place, &Leaf { group, ..leaf })?;
                Ok(heads.into_iter().filter_map(|hit| hit.group.map(convert::value_reply)).collect())
            });
            values.collect::<Result<Vec<Vec<v1::Value>>, Failure>>()
        });
        for (number, values) in numbers.into_iter().zip(chosen.await??) {
            let leaf = &mut self.leaves[number];
            let path = leaf.group_by.as_ref().map(|group| group.path.clone()).unwrap_or_default();
            let expression = v1::filter::Expression::In(v1::InValues { path, values });
            leaf.filters.push(v1::Filter { expression: Some(expression) });
        }
        Ok(())
    }

    /// Has all shards search, and makes the answers.
    async fn answer(mut self) -> Result<v1::SearchReply, Failure> {
        let asked = Parts::from(self.request.parts);
        let needs = Needs::new(&self.asks, self.collection()?.schema());
        let parts = Parts {
            value: asked.value,
            attributes: asked.attributes || !needs.attributes.is_empty(),
            embeddings: asked.embeddings || !needs.embeddings.is_empty(),
        };
        let numbers = self.numbers(|_| true);
        let leaves = std::mem::take(&mut self.leaves);
        let replies = self.round(&numbers, leaves, parts, false).await?;
        let token = joined(replies.iter().map(|reply| reply.token.clone()));
        let lag_millis = replies.iter().map(|reply| reply.lag_millis).max().unwrap_or(0);
        let (asks, catalog, name) = (Arc::clone(&self.asks), Arc::clone(&self.catalog), self.name.clone());
        let hits = replies.iter().flat_map(|reply| &reply.leaves).map(|leaf| leaf.records.len()).sum::<usize>();
        let is_short = hits <= SHORT_HITS && needs.embeddings.is_empty();
        let work = move |_: &mut SearchScratch, keep_going: &mut dyn FnMut() -> bool| {
            let collection = find(&catalog, &name)?;
            let brought = Brought::new(replies, &needs)?;
            let records = brought.replies.iter().flat_map(|reply| &reply.records);
            let records: BTreeMap<&[u8], &v1::Record> = records.map(|record| (&record.key[..], record)).collect();
            let mut budget = Budget(REPLY_BYTES_MAX);
            let mut first = 0;
            let mut results = Vec::with_capacity(asks.len());
            for (number, ask) in asks.iter().enumerate() {
                let leaves = ask.leaves();
                let lists = leaves.iter().enumerate().map(|(place, leaf)| brought.best(first + place, leaf));
                let lists = lists.collect::<Result<_, Failure>>()?;
                first += leaves.len();
                let found = collection.finish(ask, lists, keep_going);
                let hits = found.map_err(|error| Failure::from(error).number(number))?.into_iter().map(|hit| {
                    let mut record = v1::Record::clone(records.get(hit.record.key()).ok_or_else(other_reply)?);
                    if !asked.attributes {
                        record.attributes.clear();
                    }
                    if !asked.embeddings {
                        record.embeddings.clear();
                        record.sparse.clear();
                    }
                    budget.take(&record)?;
                    let group = hit.group.map(convert::value_reply);
                    Ok(v1::Hit { record: Some(record), distance: hit.distance, score: hit.score, group })
                });
                results.push(v1::Hits { hits: hits.collect::<Result<_, Failure>>()?, explanation: None });
            }
            Ok::<_, Failure>(results)
        };
        let mut results = match is_short {
            true => self.calls.search.run_here(self.deadline, work)??,
            false => self.calls.search.run(self.deadline, work).await??,
        };
        if self.request.explain {
            let explained = results.iter_mut().zip(self.explanations);
            explained.for_each(|(hits, explanation)| hits.explanation = Some(explanation));
        }
        Ok(v1::SearchReply { results, token, lag_millis, missing: self.missing })
    }

    /// The numbers of those leaves.
    fn numbers(&self, wanted: impl Fn(&v1::Leaf) -> bool) -> Vec<usize> {
        let numbered = self.leaves.iter().enumerate();
        numbered.filter(|(_, leaf)| wanted(leaf)).map(|(number, _)| number).collect()
    }

    /// Asks all shards that are not missing for leaves with these numbers.
    async fn round(
        &mut self,
        numbers: &[usize],
        leaves: Vec<v1::Leaf>,
        parts: Parts,
        count: bool,
    ) -> Result<Vec<v1::FindReply>, Failure> {
        let Parts { value, attributes, embeddings } = parts;
        let asked = leaves.len();
        let request = v1::FindRequest {
            shards: Vec::new(),
            collection: self.request.collection.clone(),
            consistency: self.request.consistency.clone(),
            ef: self.request.ef,
            exact: self.request.exact,
            parts: Some(v1::Parts { value, attributes, embeddings }),
            explain: self.request.explain && !count,
            leaves,
            count,
        };
        let question = |_| Question::Find(request.clone());
        let said = self.calls.ask_all(&self.shards, self.patience(), question, |failure| self.forgives(failure)).await;
        let said = said.map_err(|failure| {
            let leaf = numbers.get(failure.detail.number as usize);
            match leaf.and_then(|leaf| self.queries.get(*leaf)) {
                Some(query) => failure.number(*query),
                None => failure,
            }
        })?;
        let mut replies = Vec::with_capacity(said.len());
        let (mut answering, mut last) = (Vec::with_capacity(said.len()), None);
        for (shard, said) in std::mem::take(&mut self.shards).into_iter().zip(said) {
            match said {
                Ok(Said::Found(reply)) if reply.leaves.len() == asked => {
                    answering.push(shard);
                    replies.push(reply);
                }
                Ok(_) => return Err(other_reply()),
                Err(failure) => {
                    let error = Some(failure.clone().into_call_error());
                    self.missing.push(v1::MissingShard { shard, error });
                    last = Some(failure);
                }
            }
        }
        self.shards = answering;
        if let (true, Some(failure)) = (replies.is_empty(), last) {
            return Err(failure);
        }
        self.note(numbers, &mut replies);
        Ok(replies)
    }

    /// Keeps how a round's leaves were searched.
    fn note(&mut self, numbers: &[usize], replies: &mut [v1::FindReply]) {
        for (place, number) in numbers.iter().enumerate() {
            let Some(whole) = self.queries.get(*number).and_then(|query| self.explanations.get_mut(*query)) else {
                continue;
            };
            let leaves = replies.iter_mut().filter_map(|reply| reply.leaves.get_mut(place)?.explanation.take());
            // Side by side.
            let mut longest = 0;
            for explanation in leaves {
                longest = explanation.total_nanos.max(longest);
                whole.steps.extend(explanation.steps);
            }
            whole.total_nanos += longest;
        }
    }
}
