//! Patterns as Redis matches them: `*`, `?`, `[a-c]`, `[^a]`, and a backslash before what is meant as it stands.
//!
//! Time is the product of the two lengths at most: a star that fails goes back to the last star only.

/// What one place of a pattern says of one byte, and how long it is.
fn one(pattern: &[u8], byte: u8) -> (bool, usize) {
    match pattern {
        [b'?', ..] => (true, 1),
        [b'\\', escaped, ..] => (*escaped == byte, 2),
        [b'[', rest @ ..] => {
            let (negated, mut rest, mut len) = match rest {
                [b'^', rest @ ..] => (true, rest, 2),
                rest => (false, rest, 1),
            };
            let mut found = false;
            loop {
                match rest {
                    [] => break,
                    [b']', ..] => {
                        len += 1;
                        break;
                    }
                    [b'\\', escaped, after @ ..] => {
                        found |= *escaped == byte;
                        (rest, len) = (after, len + 2);
                    }
                    [from, b'-', to, after @ ..] => {
                        let (low, high) = (from.min(to), from.max(to));
                        found |= (*low..=*high).contains(&byte);
                        (rest, len) = (after, len + 3);
                    }
                    [single, after @ ..] => {
                        found |= *single == byte;
                        (rest, len) = (after, len + 1);
                    }
                }
            }
            (found != negated, len)
        }
        [literal, ..] => (*literal == byte, 1),
        [] => (false, 0),
    }
}

/// Whether all of `text` is what `pattern` says.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star's rest begins, and where in the text it was tried last.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if t == text.len() {
            if p == pattern.len() {
                return true;
            }
            // What is left of the pattern wants more than there is, and fewer bytes for the star do not help.
            return false;
        }
        let (fits, len) = one(&pattern[p..], text[t]);
        if fits && len > 0 {
            (p, t) = (p + len, t + 1);
            continue;
        }
        match &mut star {
            Some((rest, tried)) => {
                *tried += 1;
                (p, t) = (*rest, *tried);
            }
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::call::Chance;

    /// The obvious way, which takes exponential time.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|skipped| slow(rest, &text[skipped..])),
            _ => text.split_first().is_some_and(|(byte, text)| {
                let (fits, len) = one(pattern, *byte);
                fits && slow(&pattern[len..], text)
            }),
        }
    }

    #[test]
    fn it_matches_what_the_obvious_way_matches() {
        for seed in 0..20_000 {
            let mut chance = Chance::new(seed);
            let alphabet = b"ab*?[]^-\\";
            let pattern: Vec<u8> = (0..chance.below(9)).map(|_| alphabet[chance.below(alphabet.len())]).collect();
            let text: Vec<u8> = (0..chance.below(7)).map(|_| b"ab-]"[chance.below(4)]).collect();
            assert_eq!(matches(&pattern, &text), slow(&pattern, &text), "seed {seed}: {pattern:?} {text:?}");
        }
    }

    #[test]
    fn it_knows_what_people_write() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("user:*:name", "user:7:name", true),
            ("user:*:name", "user:7:nam", false),
            ("h[^e]llo", "hallo", true),
            ("h[a-b]llo", "hcllo", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = b"*a".repeat(1_000);
        let text = [&b"a".repeat(5_000)[..], b"b"].concat();
        assert!(!matches(&pattern, &text));
    }
}
