//! Searching by words: counted over everything that the view sees, then scored record by record.
//!
//! A segment has an index of its texts, in which the words are found; where it has none, as buffers have, every text is
//! looked at. The words of a buffer's record are split when it is first searched, and kept. Both ways give the same scores
//! to the last bit.

use super::ask::Asking;
use super::scan::ASK_EVERY;
use super::search::Nearest;
use super::select::Selection;
use super::{Hit, RecordRef};
use crate::ask::{AskError, Within};
use crate::filter::Filter;
use crate::inverted::walk;
use crate::record::Position;
use crate::sealed::Sealed;
use crate::text::{Corpus, Index, Question, Words};

/// A text that has some of the words, found without an index.
struct Match<'v> {
    record: RecordRef<'v>,
    /// Which words, by their number, and how often.
    counts: Vec<(usize, u32)>,
    length: u32,
}

/// What is counted before anything can be scored.
struct Counting<'a, 'v> {
    question: &'a Question,
    corpus: Corpus,
    matches: Vec<Match<'v>>,
}

impl<'v> Counting<'_, 'v> {
    fn add(&mut self, record: RecordRef<'v>, words: &Words) {
        self.corpus.add(self.question, words);
        let counts = self.question.words().map(|word| words.times(word)).enumerate();
        let counts: Vec<_> = counts.filter(|&(_, times)| times > 0).collect();
        if !counts.is_empty() {
            self.matches.push(Match { record, counts, length: words.length() });
        }
    }

    fn add_index(&mut self, sealed: &Sealed, index: &Index<'_>, position: Position) {
        let corpus = &mut self.corpus;
        corpus.texts += index.texts();
        corpus.length += index.total_length();
        let whole = sealed.ended() == 0;
        if !whole {
            let gone = sealed.ends().filter(|(_, end)| *end <= position).map(|(row, _)| index.length(row));
            for length in gone.filter(|length| *length > 0) {
                corpus.texts = corpus.texts.saturating_sub(1);
                corpus.length = corpus.length.saturating_sub(u64::from(length));
            }
        }
        for (with, word) in corpus.with_word.iter_mut().zip(self.question.words()) {
            let rows = index.find(word);
            *with += match whole {
                true => u64::from(rows.left()),
                false => rows.filter(|&(row, _)| sealed.visible_at(row, position)).count() as u64,
            };
        }
    }
}

impl<'v> Asking<'_, 'v> {
    pub(super) fn find_text(
        &mut self,
        text: u16,
        question: &str,
        filter: Option<&Filter>,
        k: usize,
        within: Within,
    ) -> Result<Vec<Hit<'v>>, AskError> {
        let number = usize::from(text);
        let shared = self.collection.collection;
        let texts = &shared.schema.texts;
        let field = texts.get(number).ok_or(AskError::UnknownText(text))?;
        let question = Question::new(question, field.language)?;
        let position = self.collection.view.position();
        let mut counting = Counting { question: &question, corpus: Corpus::new(&question), matches: Vec::new() };
        for (count, (_, row)) in shared.buffers.iter().flat_map(|buffer| buffer.visible(position)).enumerate() {
            if count % ASK_EVERY == ASK_EVERY - 1 {
                self.check_going()?;
            }
            if let Some(words) = row.words(texts).get(number) {
                counting.add(RecordRef::of_row(row), words);
            }
        }
        for sealed in &shared.segments {
            self.check_going()?;
            if let Some(index) = sealed.segment.text_index(text, field.language) {
                counting.add_index(sealed, &index, position);
                continue;
            }
            for row in (0..sealed.len()).filter(|&row| sealed.visible_at(row, position)) {
                if row as usize % ASK_EVERY == ASK_EVERY - 1 {
                    self.check_going()?;
                }
                let record = RecordRef::of_segment(sealed, row);
                counting.add(record, &Words::of_attribute(record.attributes(), &field.path, field.language));
            }
        }
        let Counting { corpus, matches, .. } = counting;
        let scorer = corpus.scorer(&question);
        let mut nearest = Nearest::new(k);
        let hit = |record, score: f32| Hit { distance: -score, score: Some(score), group: None, record };
        for Match { record, counts, length } in matches {
            self.offer(&mut nearest, hit(record, scorer.score(counts.into_iter(), length)), filter, &within);
        }
        for sealed in &shared.segments {
            let Some(index) = sealed.segment.text_index(text, field.language) else { continue };
            self.cost.scanned += 1;
            let began = self.scratch.explaining.now();
            let selection = Selection::new(&self.collection, sealed, filter, self.ask.now);
            let selected = self.scratch.explaining.now();
            let lists = question.words().map(|word| index.find(word)).collect();
            let mut looked_at = 0usize;
            let whole = walk(lists, |row, said| {
                looked_at += 1;
                let score = scorer.score(said.iter().copied(), index.length(row));
                let hit = hit(RecordRef::of_segment(sealed, row), score);
                self.offer_selected(&mut nearest, hit, &selection, row, &within);
                !looked_at.is_multiple_of(ASK_EVERY) || (self.keep_going)()
            });
            if !whole {
                return Err(super::Cancelled.into());
            }
            self.explain_lists(sealed, &selection, looked_at, [began, selected]);
        }
        Ok(nearest.into_hits())
    }
}
