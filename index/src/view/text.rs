//! Searching by words: counted over everything that the views of all parts see, then scored record by record.
//!
//! A segment has an index of its texts, in which the words are found; where it has none, as buffers have, every text is
//! looked at. The words of a buffer's record are split when it is first searched, and kept. Both ways give the same scores
//! to the last bit.

use super::ask::Asking;
use super::lists::Gathering;
use super::scan::ASK_EVERY;
use super::search::Nearest;
use super::{Cancelled, CollectionView, Hit, RecordRef};
use crate::ask::{AskError, Within};
use crate::command::TextSpec;
use crate::filter::Filter;
use crate::record::Position;
use crate::sealed::Sealed;
use crate::text::{Corpus, Index, Question, Words};

/// A text that has some of the words, found without an index.
struct Scanned<'a, 'v> {
    part: &'a CollectionView<'v>,
    record: RecordRef<'v>,
    /// Which words, by their number, and how often.
    counts: Vec<(usize, u32)>,
    length: u32,
}

/// What is counted before anything can be scored.
struct Counting<'q, 'a, 'v> {
    question: &'q Question,
    corpus: Corpus,
    scanned: Vec<Scanned<'a, 'v>>,
}

impl<'a, 'v> Counting<'_, 'a, 'v> {
    fn add(&mut self, part: &'a CollectionView<'v>, record: RecordRef<'v>, words: &Words) {
        self.corpus.add(self.question, words);
        let counts = self.question.words().map(|word| words.times(word)).enumerate();
        let counts: Vec<_> = counts.filter(|&(_, times)| times > 0).collect();
        if !counts.is_empty() {
            self.scanned.push(Scanned { part, record, counts, length: words.length() });
        }
    }

    /// Counts the texts of a segment; `keep_going` is asked before each word.
    fn add_index(
        &mut self,
        sealed: &Sealed,
        index: &Index<'_>,
        position: Position,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<(), Cancelled> {
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
            if !keep_going() {
                return Err(Cancelled);
            }
            let rows = index.find(word);
            *with += match whole {
                true => u64::from(rows.left()),
                false => rows.filter(|&(row, _)| sealed.visible_at(row, position)).count() as u64,
            };
        }
        Ok(())
    }
}

impl<'a, 'v> Asking<'a, 'v> {
    pub(super) fn find_text(
        &mut self,
        text: u16,
        question: &str,
        filter: Option<&Filter>,
        k: usize,
        within: Within,
    ) -> Result<Vec<Hit<'v>>, AskError> {
        let (field, question) = self.question(text, question)?;
        let (corpus, scanned) = self.count(text, field, &question, filter.is_some())?;
        let corpus = match &self.leaf.corpus {
            None => &corpus,
            Some(given) if given.with_word.len() == question.words().len() => given,
            Some(_) => return Err(AskError::CountedOtherwise),
        };
        let parts = self.parts;
        let scorer = corpus.scorer(&question);
        let hit = |record, score: f32| Hit { distance: -score, score: Some(score), group: None, record };
        let mut gathering = Gathering { filter, within, nearest: Nearest::new(k) };
        for Scanned { part, record, counts, length } in scanned {
            self.offer(&mut gathering, part, hit(record, scorer.score(counts.into_iter(), length)));
        }
        for (place, part) in parts.iter().enumerate() {
            self.scratch.explaining.enter(place);
            for sealed in &part.collection.segments {
                let Some(index) = sealed.segment.text_index(text, field.language) else { continue };
                let lists = question.words().map(|word| index.find(word)).collect();
                self.gather(&mut gathering, part, sealed, lists, |row, record, said| {
                    hit(record, scorer.score(said.iter().copied(), index.length(row)))
                })?;
            }
        }
        Ok(gathering.nearest.into_hits())
    }

    /// The words to look for, and in which text.
    fn question(&self, text: u16, question: &str) -> Result<(&'v TextSpec, Question), AskError> {
        let field = self.rules().schema.texts.get(usize::from(text)).ok_or(AskError::UnknownText(text))?;
        Ok((field, Question::new(question, field.language)?))
    }

    /// What it takes to score texts.
    pub(super) fn count_question(&mut self, text: u16, question: &str) -> Result<Corpus, AskError> {
        let (field, question) = self.question(text, question)?;
        Ok(self.count(text, field, &question, false)?.0)
    }

    /// Counts the words of all parts, and finds the texts that no index has.
    fn count(
        &mut self,
        text: u16,
        field: &TextSpec,
        question: &Question,
        filtered: bool,
    ) -> Result<(Corpus, Vec<Scanned<'a, 'v>>), Cancelled> {
        let mut counting = Counting { question, corpus: Corpus::new(question), scanned: Vec::new() };
        let parts = self.parts;
        for (place, part) in parts.iter().enumerate() {
            self.scratch.explaining.enter(place);
            self.count_words(part, usize::from(text), field, &mut counting, filtered)?;
        }
        Ok((counting.corpus, counting.scanned))
    }

    /// Counts the words of a part.
    fn count_words(
        &mut self,
        part: &'a CollectionView<'v>,
        number: usize,
        field: &TextSpec,
        counting: &mut Counting<'_, 'a, 'v>,
        filtered: bool,
    ) -> Result<(), Cancelled> {
        let (shared, position) = (part.collection, part.view.position());
        let (began, mut looked_at) = (self.scratch.explaining.now(), 0usize);
        for buffer in &shared.buffers {
            for (_, row) in buffer.visible(position) {
                looked_at += 1;
                if looked_at.is_multiple_of(ASK_EVERY) {
                    self.check_going()?;
                }
                if let Some(words) = buffer.words(row, &shared.schema.texts).get(number) {
                    counting.add(part, RecordRef::of_row(row), words);
                }
            }
        }
        self.explain_scan(None, looked_at, began, filtered);
        for sealed in &shared.segments {
            self.check_going()?;
            if let Some(index) = sealed.segment.text_index(number as u16, field.language) {
                counting.add_index(sealed, &index, position, self.keep_going)?;
                continue;
            }
            let (began, mut looked_at) = (self.scratch.explaining.now(), 0usize);
            for row in (0..sealed.len()).filter(|&row| sealed.visible_at(row, position)) {
                looked_at += 1;
                if looked_at.is_multiple_of(ASK_EVERY) {
                    self.check_going()?;
                }
                let record = RecordRef::of_segment(sealed, row);
                counting.add(part, record, &Words::of_attribute(record.attributes(), &field.path, field.language));
            }
            self.explain_scan(Some(sealed), looked_at, began, filtered);
        }
        Ok(())
    }
}
