//! Scores against the formula, indexes against the texts they were made of, and bytes against damage.

use super::*;
use crate::inverted;

/// A small source of numbers, from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Texts of words of which some are common and most are rare.
fn texts(seed: u64, count: usize) -> Vec<String> {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut text = || {
        let length = chance.below(30);
        let word = |chance: &mut Chance| {
            let range = [5, 50, 500][chance.below(3) as usize];
            format!("w{}", chance.below(range))
        };
        (0..length).map(|_| word(&mut chance)).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(|_| text()).collect()
}

fn encoded(texts: &[String]) -> Vec<u8> {
    let mut writer = Writer::new(Language::Plain, 7);
    texts.iter().for_each(|text| writer.push(&Words::of_text(text, Language::Plain)));
    let mut bytes = Vec::new();
    let written: Result<(), ()> = writer.write(|part| {
        bytes.extend_from_slice(part);
        Ok(())
    });
    assert_eq!(written, Ok(()));
    bytes
}

/// BM25 straight from the paper, over texts as lists of words.
fn model(texts: &[String], question: &str) -> Vec<Option<f32>> {
    let split = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
    let all: Vec<Vec<String>> = texts.iter().map(|text| split(text)).collect();
    let n = all.iter().filter(|text| !text.is_empty()).count() as f64;
    let average = all.iter().map(Vec::len).sum::<usize>() as f64 / n;
    let mut asked = split(question);
    asked.sort();
    let score = |text: &Vec<String>| {
        let mut sum = 0.0;
        let mut found = false;
        for word in &asked {
            let with = all.iter().filter(|text| text.contains(word)).count() as f64;
            let idf = (1.0 + (n - with + 0.5) / (with + 0.5)).ln();
            let f = text.iter().filter(|other| *other == word).count() as f64;
            found |= f > 0.0;
            sum += idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * text.len() as f64 / average));
        }
        found.then_some(sum as f32)
    };
    all.iter().map(score).collect()
}

fn near(a: Option<f32>, b: Option<f32>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-5 * b.abs().max(1.0),
        (a, b) => a == b,
    }
}

#[test]
fn scores_are_those_of_the_formula_by_index_and_by_text() {
    for seed in 1..=20 {
        let texts = texts(seed, 200);
        let bytes = encoded(&texts);
        let index = Index::open(&bytes, Language::Plain).unwrap();
        for asked in ["w1", "w3 w3 w40", "w0 w1 w2 w3 w4", "w7 w333 unheard", "unheard"] {
            let question = Question::new(asked, Language::Plain).unwrap();
            let counted: Vec<Words> = texts.iter().map(|text| Words::of_text(text, Language::Plain)).collect();
            let mut corpus = Corpus::new(&question);
            counted.iter().for_each(|words| corpus.add(&question, words));
            let by_index = Corpus {
                texts: index.texts(),
                length: index.total_length(),
                with_word: question.words().map(|word| u64::from(index.find(word).left())).collect(),
            };
            assert_eq!(corpus, by_index, "seed {seed} {asked:?}");
            let scorer = corpus.scorer(&question);
            let by_text: Vec<_> = counted.iter().map(|words| scorer.score_words(&question, words)).collect();
            let mut by_rows = vec![None; texts.len()];
            let lists = question.words().map(|word| index.find(word)).collect();
            inverted::walk(lists, |row, said| {
                by_rows[row as usize] = Some(scorer.score(said.iter().copied(), index.length(row)));
                true
            });
            assert_eq!(by_text, by_rows, "seed {seed} {asked:?}: to the last bit");
            for (row, expected) in model(&texts, asked).into_iter().enumerate() {
                assert!(
                    near(by_text[row], expected),
                    "seed {seed} {asked:?} row {row}: {:?} {expected:?}",
                    by_text[row]
                );
            }
        }
    }
}

#[test]
fn every_word_is_found_in_its_rows() {
    let texts = texts(3, 300);
    let bytes = encoded(&texts);
    let index = Index::open(&bytes, Language::Plain).unwrap();
    assert_eq!((index.rows(), Index::open(&bytes, Language::English).is_none()), (300, true));
    for word in (0..500).map(|number| format!("w{number}")) {
        let times = |text: &String| text.split_whitespace().filter(|other| **other == word).count() as u32;
        let expected: Vec<(u32, u32)> = (0..).zip(texts.iter().map(times)).filter(|&(_, times)| times > 0).collect();
        assert_eq!(index.find(&word).collect::<Vec<_>>(), expected, "{word}");
    }
    assert_eq!(index.find("").count() + index.find("zzz").count(), 0);
}

#[test]
fn nothing_indexed_is_an_index_too() {
    let bytes = encoded(&[]);
    let index = Index::open(&bytes, Language::Plain).unwrap();
    assert_eq!((index.rows(), index.texts(), index.find("a").count(), index.length(7)), (0, 0, 0, 0));
}

#[test]
fn flipped_bits_and_missing_ends_never_panic() {
    let bytes = encoded(&texts(5, 12));
    let read = |bytes: &[u8]| {
        let Some(index) = Index::open(bytes, Language::Plain) else { return };
        for word in ["w0", "w1", "w4", "w40", "w400", ""] {
            assert!(index.find(word).all(|(row, _)| row < index.rows()));
        }
        std::hint::black_box((0..20).map(|row| index.length(row)).max());
    };
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        read(&damaged);
    }
    (0..bytes.len()).for_each(|len| read(&bytes[..len]));
}

#[test]
fn version_1_never_changes() {
    let bytes = encoded(&["b a b".into(), String::new(), "a".into()]);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = "00010000 03000000 02000000 00000000 0200000000000000 0400000000000000 03000000 00000000 01000000 \
                  0100000000000000 0400000000000000 02000000 00000000 \
                  0200000000000000 0600000000000000 01000000 00000000 6162 01010201 0102";
    assert_eq!(hex, golden.replace(' ', ""));
}

#[test]
fn questions_keep_to_their_limits() {
    let ask = |text: &str| Question::new(text, Language::English).map(|question| question.words().count());
    assert_eq!(ask("searching, searches; memory"), Ok(2));
    assert_eq!(ask(" ?! "), Err(QuestionError::NoWords(" ?! ".into())));
    let many = |count: usize| (0..count).map(|number| format!("w{number}")).collect::<Vec<_>>().join(" ");
    assert_eq!(ask(&many(QUESTION_WORDS_MAX)), Ok(QUESTION_WORDS_MAX));
    assert_eq!(ask(&many(QUESTION_WORDS_MAX + 1)), Err(QuestionError::TooManyWords(QUESTION_WORDS_MAX + 1)));
    assert_eq!(ask(&"a".repeat(QUESTION_BYTES_MAX)), Ok(1));
    assert_eq!(ask(&"a".repeat(QUESTION_BYTES_MAX + 1)), Err(QuestionError::TooLong(QUESTION_BYTES_MAX + 1)));
}

#[test]
fn a_list_of_texts_is_one_text() {
    use crate::attributes::{Attributes, Value, encode};
    let list = Value::List(vec![Value::String("a b".into()), Value::Int(7), Value::String("b".into())]);
    let attributes = encode(&Attributes::from([("t".into(), list), ("n".into(), Value::Int(1))])).unwrap();
    let words = Words::of_attribute(&attributes, &["t".into()], Language::Plain);
    assert_eq!(words, Words::of_text("a b b", Language::Plain));
    for path in ["n", "missing"] {
        assert_eq!(Words::of_attribute(&attributes, &[path.into()], Language::Plain).length(), 0);
    }
}
