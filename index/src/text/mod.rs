//! Full text: which words a text has, and how well a record's text answers a question.
//!
//! ```text
//!   attribute --words--> Words (counted) --Writer--> bytes in a segment --Index--> rows, by word
//!   question  --words--> Question --Corpus--> Scorer --(counts, length)--> score
//! ```
//!
//! The score is BM25. For a question of words w, each asked for `times(w)` times, and a text of `length` words:
//!
//! ```text
//!   score = sum of  times(w) * idf(w) * f * (K1 + 1) / (f + K1 * (1 - B + B * length / average))
//!   idf(w) = ln(1 + (N - n(w) + 0.5) / (n(w) + 0.5))         f: how often w is in the text
//! ```
//!
//! with K1 = 1.2 and B = 0.75. N is the number of texts with at least one word, n(w) of those with the word, `average`
//! their mean length. They are counted over the whole collection as the view sees it, or as the views of all its parts do,
//! not by segment and not by what a filter takes: so scores can be compared, do not depend on where a record lies, and are the same on every member. Texts
//! of records that have expired count until the store has ended them.
//!
//! A record's text is the string at the declared path; of a list, all strings in it, one after the other.

mod postings;
mod words;

pub use postings::{Index, Postings, Writer};
pub use words::{WORD_BYTES_MAX, words};

use crate::attributes::{self, ValueRef};
use crate::command::Language;

/// How soon a word that is there more often stops to add to the score.
pub const K1: f64 = 1.2;
/// How much a long text has to make up for its length.
pub const B: f64 = 0.75;
/// The most different words of one question.
pub const QUESTION_WORDS_MAX: usize = 1_024;
/// The longest question, in bytes.
pub const QUESTION_BYTES_MAX: usize = 64 << 10;

/// The words of one text, each with how often it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// The different words one after the other, ascending.
    text: Box<str>,
    /// Where each ends in `text`, and how often it is there.
    words: Box<[(u32, u32)]>,
    length: u32,
}

impl Words {
    /// Counts the words that `feed` hands out.
    fn count(feed: impl FnOnce(&mut dyn FnMut(&str))) -> Words {
        // All words one after the other, then sorted where they lie: one allocation for many.
        let (mut all, mut places) = (String::new(), Vec::new());
        feed(&mut |word| {
            let start = all.len() as u32;
            all.push_str(word);
            places.push((start, all.len() as u32));
        });
        let word = |&(start, end): &(u32, u32)| &all[start as usize..end as usize];
        places.sort_unstable_by(|a, b| word(a).cmp(word(b)));
        let mut text = String::with_capacity(all.len());
        let mut words: Vec<(u32, u32)> = Vec::with_capacity(places.len());
        for run in places.chunk_by(|a, b| word(a) == word(b)) {
            text.push_str(word(&run[0]));
            words.push((text.len() as u32, run.len() as u32));
        }
        Words { text: text.into(), words: words.into(), length: places.len() as u32 }
    }

    /// The words of a text.
    pub fn of_text(text: &str, language: Language) -> Words {
        Words::count(|each| words(text, language, each))
    }

    /// The words of what stands at a path of encoded attributes; none if there is no text.
    pub fn of_attribute(attributes: &[u8], path: &[String], language: Language) -> Words {
        match attributes::lookup(attributes, path) {
            Some(ValueRef::String(text)) => Words::of_text(text, language),
            Some(ValueRef::List(list)) => Words::count(|each| {
                for element in list.iter() {
                    if let ValueRef::String(text) = element {
                        words(text, language, &mut *each);
                    }
                }
            }),
            _ => Words::default(),
        }
    }

    /// What they take in memory.
    pub fn bytes(&self) -> usize {
        size_of::<Words>() + self.text.len() + size_of_val(&*self.words)
    }

    /// How many words the text has, repeated ones too.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// The different words, ascending, with how often each is there.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        let mut start = 0;
        self.words.iter().map(move |&(end, count)| {
            let word = &self.text[start..end as usize];
            start = end as usize;
            (word, count)
        })
    }

    /// How often the word is there.
    pub fn times(&self, word: &str) -> u32 {
        let at = |place: usize| {
            let start = place.checked_sub(1).map_or(0, |before| self.words[before].0);
            &self.text[start as usize..self.words[place].0 as usize]
        };
        let (mut low, mut high) = (0, self.words.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if at(middle) < word {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low < self.words.len() && at(low) == word { self.words[low].1 } else { 0 }
    }
}

/// Why a question cannot be asked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// It is longer than a question may be.
    #[error("the text to search for has {0} bytes, more than {QUESTION_BYTES_MAX}; shorten it")]
    TooLong(usize),
    /// It has more words than a question may have.
    #[error("the text to search for has {0} different words, more than {QUESTION_WORDS_MAX}; shorten it")]
    TooManyWords(usize),
    /// There is no word in it.
    #[error("there is no word in the text to search for: {0:?}")]
    NoWords(String),
}

/// The words to look for, ascending, each with how often it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question(Vec<(Box<str>, u32)>);

impl Question {
    /// The question that a text is.
    pub fn new(text: &str, language: Language) -> Result<Question, QuestionError> {
        if text.len() > QUESTION_BYTES_MAX {
            return Err(QuestionError::TooLong(text.len()));
        }
        let words = Words::of_text(text, language);
        match words.words.len() {
            0 => Err(QuestionError::NoWords(text.chars().take(40).collect())),
            many if many > QUESTION_WORDS_MAX => Err(QuestionError::TooManyWords(many)),
            _ => Ok(Question(words.iter().map(|(word, times)| (word.into(), times)).collect())),
        }
    }

    /// The different words, ascending.
    pub fn words(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|(word, _)| &**word)
    }
}

/// What is counted over a whole collection to answer one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// Texts with at least one word.
    pub texts: u64,
    /// Their words, all together.
    pub length: u64,
    /// For each of the question's words, how many texts have it.
    pub with_word: Vec<u64>,
}

impl Corpus {
    /// Nothing counted yet.
    pub fn new(question: &Question) -> Corpus {
        Corpus { texts: 0, length: 0, with_word: vec![0; question.0.len()] }
    }

    /// Counts one text.
    pub fn add(&mut self, question: &Question, words: &Words) {
        if words.length == 0 {
            return;
        }
        self.texts += 1;
        self.length += u64::from(words.length);
        for (with, word) in self.with_word.iter_mut().zip(question.words()) {
            *with += u64::from(words.times(word) > 0);
        }
    }

    /// Counts what was counted elsewhere for the same question.
    pub fn join(&mut self, other: &Corpus) {
        self.texts = self.texts.saturating_add(other.texts);
        self.length = self.length.saturating_add(other.length);
        for (with, others) in self.with_word.iter_mut().zip(&other.with_word) {
            *with = with.saturating_add(*others);
        }
    }

    /// What it takes to score a text.
    pub fn scorer(&self, question: &Question) -> Scorer {
        let texts = self.texts as f64;
        let weight = |(&with, (_, times)): (&u64, &(Box<str>, u32))| {
            let with = with as f64;
            let idf = (1.0 + (texts - with + 0.5).max(0.0) / (with + 0.5)).ln();
            f64::from(*times) * idf * (K1 + 1.0)
        };
        let average = self.length as f64 / texts.max(1.0);
        Scorer {
            weights: self.with_word.iter().zip(&question.0).map(weight).collect(),
            constant: K1 * (1.0 - B),
            per_word: if average > 0.0 { K1 * B / average } else { 0.0 },
        }
    }
}

/// Turns what a text has of a question into a score.
#[derive(Debug, Clone)]
pub struct Scorer {
    weights: Vec<f64>,
    constant: f64,
    per_word: f64,
}

impl Scorer {
    /// The score of a text of `length` words that has each of these of the question's words, by their number ascending, so
    /// many times.
    pub fn score(&self, counts: impl Iterator<Item = (usize, u32)>, length: u32) -> f32 {
        let norm = self.constant + self.per_word * f64::from(length);
        let parts = counts.map(|(word, count)| {
            let count = f64::from(count);
            self.weights.get(word).copied().unwrap_or(0.0) * count / (count + norm)
        });
        parts.sum::<f64>() as f32
    }

    /// The score of a text, or `None` if it has none of the words.
    pub fn score_words(&self, question: &Question, words: &Words) -> Option<f32> {
        let found = || question.words().map(|word| words.times(word)).enumerate().filter(|&(_, times)| times > 0);
        found().next()?;
        Some(self.score(found(), words.length))
    }
}

#[cfg(test)]
mod tests;
