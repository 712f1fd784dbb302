//! From a text to its words.
//!
//! Words end where Unicode says that words end (UAX #29), so "don't" and "3.14" are one word each, and every Chinese
//! character is one. Each is put in lower case; in English also reduced to its stem (Snowball's English stemmer). Nothing is
//! left out: common words weigh little by themselves.
//!
//! This is part of what indexes in files were made with: a change that makes other words of a text needs another
//! [`VERSION`], by which an index of old words is passed over.

use rust_stemmers::{Algorithm, Stemmer};
use unicode_segmentation::UnicodeSegmentation;

use crate::command::Language;

/// Which rules words are made by.
pub(super) const VERSION: u8 = 1;

/// The longest word, in bytes. Of a longer one, its beginning is the word.
pub const WORD_BYTES_MAX: usize = 128;

/// A language's number in files.
pub(super) fn code(language: Language) -> u8 {
    match language {
        Language::Plain => 0,
        Language::English => 1,
    }
}

/// Calls `each` with every word of a text, in order.
pub fn words(text: &str, language: Language, mut each: impl FnMut(&str)) {
    let stemmer = match language {
        Language::Plain => None,
        Language::English => Some(Stemmer::create(Algorithm::English)),
    };
    let mut lower = String::new();
    for word in text.unicode_words() {
        lower.clear();
        if word.is_ascii() {
            lower.push_str(word);
            lower.make_ascii_lowercase();
        } else {
            // All of the word at once: what a letter becomes can depend on its place.
            lower.push_str(&word.to_lowercase());
        }
        let lower = &lower[..lower.floor_char_boundary(WORD_BYTES_MAX)];
        match &stemmer {
            // What is no English is not for an English stemmer.
            Some(stemmer) if lower.is_ascii() => each(&stemmer.stem(lower)),
            Some(stemmer) if lower.contains('\u{2019}') => each(&stemmer.stem(&lower.replace('\u{2019}', "'"))),
            _ => each(lower),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(language: Language, text: &str, expected: &[&str]) {
        let mut found = Vec::new();
        words(text, language, |word| found.push(word.to_owned()));
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn plain_words_are_split_and_in_lower_case() {
        check(Language::Plain, "", &[]);
        check(Language::Plain, " ... - !", &[]);
        check(Language::Plain, "The cats' 3.14 RUNNING, don't!", &["the", "cats", "3.14", "running", "don't"]);
        check(Language::Plain, "Stra\u{df}e \u{c9}T\u{c9}", &["stra\u{df}e", "\u{e9}t\u{e9}"]);
        check(Language::Plain, "\u{6771}\u{4eac}", &["\u{6771}", "\u{4eac}"]);
    }

    #[test]
    fn english_words_are_stems() {
        check(Language::English, "searching Searches searched", &["search", "search", "search"]);
        check(Language::English, "the cat's memories", &["the", "cat", "memori"]);
        check(Language::English, "the cat\u{2019}s memories", &["the", "cat", "memori"]);
        check(Language::English, "\u{e9}tudes", &["\u{e9}tudes"]);
    }

    #[test]
    fn a_very_long_word_is_its_beginning() {
        let long = "\u{e9}".repeat(1_000);
        check(Language::Plain, &long, &[&long[..WORD_BYTES_MAX]]);
        let odd = format!("a{long}");
        check(Language::Plain, &odd, &[&odd[..WORD_BYTES_MAX - 1]]);
    }
}
