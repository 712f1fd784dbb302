//! Patterns: how `find`, `match`, `gmatch` and `gsub` look at texts.
//!
//! A pattern can make a match try exponentially many ways, so every try is counted, and a match ends when the count does. How
//! deep a match nests is bounded too.

const CAPTURES_MAX: usize = 32;
/// Items of a pattern whose repetition is being tried at once.
const DEPTH_MAX: u32 = 200;

/// What a capture holds.
#[derive(Clone, Copy)]
pub enum Capture {
    Open(usize),
    Range(usize, usize),
    Position(usize),
}

pub enum Trouble {
    /// The pattern is wrong.
    Wrong(String),
    /// It took more tries than were left.
    Steps,
}

type Tried<T> = Result<T, Trouble>;

/// One attempt of a pattern on a text.
pub struct Matcher<'t> {
    text: &'t [u8],
    pattern: &'t [u8],
    captures: [Capture; CAPTURES_MAX],
    pub level: usize,
    depth: u32,
    pub tries: u64,
    tries_max: u64,
}

fn wrong<T>(what: &str) -> Tried<T> {
    Err(Trouble::Wrong(what.into()))
}

/// The pattern up to a zero byte, where the language of patterns ends.
pub fn cut(pattern: &[u8]) -> &[u8] {
    pattern.split(|c| *c == 0).next().unwrap_or(pattern)
}

impl<'t> Matcher<'t> {
    pub fn new(text: &'t [u8], pattern: &'t [u8], tries_max: u64) -> Matcher<'t> {
        let captures = [Capture::Open(0); CAPTURES_MAX];
        Matcher { text, pattern, captures, level: 0, depth: 0, tries: 0, tries_max }
    }

    pub fn captures(&self) -> &[Capture] {
        &self.captures[..self.level]
    }

    /// Where a match of the pattern from `p` on ends that begins at `s`.
    pub fn matches(&mut self, s: usize, p: usize) -> Tried<Option<usize>> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return wrong("pattern too complex");
        }
        let end = self.go(s, p);
        self.depth -= 1;
        end
    }

    fn count(&mut self, tries: usize) -> Tried<()> {
        self.tries += tries as u64;
        if self.tries > self.tries_max { Err(Trouble::Steps) } else { Ok(()) }
    }

    fn go(&mut self, mut s: usize, mut p: usize) -> Tried<Option<usize>> {
        loop {
            self.count(1)?;
            let Some(&c) = self.pattern.get(p) else { return Ok(Some(s)) };
            match c {
                b'(' => {
                    return if self.pattern.get(p + 1) == Some(&b')') {
                        self.open(s, p + 2, Capture::Position(s))
                    } else {
                        self.open(s, p + 1, Capture::Open(s))
                    };
                }
                b')' => return self.end_capture(s, p + 1),
                b'$' if p + 1 == self.pattern.len() => return Ok((s == self.text.len()).then_some(s)),
                b'%' => match self.pattern.get(p + 1) {
                    Some(b'b') => {
                        match self.balance(s, p + 2)? {
                            Some(next) => s = next,
                            None => return Ok(None),
                        }
                        p += 4;
                        continue;
                    }
                    Some(b'f') => {
                        p += 2;
                        if self.pattern.get(p) != Some(&b'[') {
                            return wrong("missing '[' after '%f' in pattern");
                        }
                        let end = self.class_end(p)?;
                        let before = if s == 0 { 0 } else { self.text[s - 1] };
                        let here = self.text.get(s).copied().unwrap_or(0);
                        if self.in_set(before, p, end - 1) || !self.in_set(here, p, end - 1) {
                            return Ok(None);
                        }
                        p = end;
                        continue;
                    }
                    Some(digit) if digit.is_ascii_digit() => {
                        let (from, to) = self.closed(*digit)?;
                        let len = to - from;
                        self.count(len / 16)?;
                        if self.text.len() - s < len || self.text[from..to] != self.text[s..s + len] {
                            return Ok(None);
                        }
                        s += len;
                        p += 2;
                        continue;
                    }
                    _ => {}
                },
                _ => {}
            }
            let end = self.class_end(p)?;
            let one = self.single(s, p, end);
            match self.pattern.get(end) {
                Some(b'?') => {
                    if one && let Some(found) = self.matches(s + 1, end + 1)? {
                        return Ok(Some(found));
                    }
                    p = end + 1;
                }
                Some(b'*') => return self.most(s, p, end),
                Some(b'+') => return if one { self.most(s + 1, p, end) } else { Ok(None) },
                Some(b'-') => return self.least(s, p, end),
                _ if one => {
                    s += 1;
                    p = end;
                }
                _ => return Ok(None),
            }
        }
    }

    fn most(&mut self, s: usize, p: usize, end: usize) -> Tried<Option<usize>> {
        let mut count = 0;
        while self.single(s + count, p, end) {
            count += 1;
        }
        self.count(count / 4)?;
        loop {
            if let Some(found) = self.matches(s + count, end + 1)? {
                return Ok(Some(found));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    fn least(&mut self, mut s: usize, p: usize, end: usize) -> Tried<Option<usize>> {
        loop {
            if let Some(found) = self.matches(s, end + 1)? {
                return Ok(Some(found));
            }
            if !self.single(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn open(&mut self, s: usize, p: usize, capture: Capture) -> Tried<Option<usize>> {
        if self.level >= CAPTURES_MAX {
            return wrong("too many captures");
        }
        self.captures[self.level] = capture;
        self.level += 1;
        let found = self.matches(s, p)?;
        if found.is_none() {
            self.level -= 1;
        }
        Ok(found)
    }

    fn end_capture(&mut self, s: usize, p: usize) -> Tried<Option<usize>> {
        let open = self.captures[..self.level].iter().rposition(|capture| matches!(capture, Capture::Open(_)));
        let Some(index) = open else { return wrong("invalid pattern capture") };
        let Capture::Open(from) = self.captures[index] else { return wrong("invalid pattern capture") };
        self.captures[index] = Capture::Range(from, s);
        let found = self.matches(s, p)?;
        if found.is_none() {
            self.captures[index] = Capture::Open(from);
        }
        Ok(found)
    }

    fn closed(&self, digit: u8) -> Tried<(usize, usize)> {
        match (digit as usize).checked_sub(b'1' as usize).and_then(|index| self.captures().get(index)) {
            Some(Capture::Range(from, to)) => Ok((*from, *to)),
            _ => wrong("invalid capture index"),
        }
    }

    fn balance(&mut self, s: usize, p: usize) -> Tried<Option<usize>> {
        let (Some(&open), Some(&close)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return wrong("unbalanced pattern");
        };
        if self.text.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1;
        for at in s + 1..self.text.len() {
            let c = self.text[at];
            if c == close {
                depth -= 1;
                if depth == 0 {
                    self.count((at - s) / 4)?;
                    return Ok(Some(at + 1));
                }
            } else if c == open {
                depth += 1;
            }
        }
        self.count((self.text.len() - s) / 4)?;
        Ok(None)
    }

    /// Behind the class of characters that begins at `p`.
    fn class_end(&self, p: usize) -> Tried<usize> {
        match self.pattern[p] {
            b'%' => {
                if p + 1 >= self.pattern.len() {
                    return wrong("malformed pattern (ends with '%')");
                }
                Ok(p + 2)
            }
            b'[' => {
                let mut at = p + 1;
                if self.pattern.get(at) == Some(&b'^') {
                    at += 1;
                }
                loop {
                    let Some(&c) = self.pattern.get(at) else {
                        return wrong("malformed pattern (missing ']')");
                    };
                    at += 1;
                    if c == b'%' {
                        at += 1;
                    }
                    if self.pattern.get(at) == Some(&b']') {
                        return Ok(at + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    fn single(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&c) = self.text.get(s) else { return false };
        match self.pattern[p] {
            b'.' => true,
            b'%' => in_class(c, self.pattern[p + 1]),
            b'[' => self.in_set(c, p, end - 1),
            literal => literal == c,
        }
    }

    /// Whether `c` is in the set whose brackets are at `p` and `close`.
    fn in_set(&self, c: u8, p: usize, close: usize) -> bool {
        let mut at = p + 1;
        let mut inside = true;
        if self.pattern.get(at) == Some(&b'^') {
            inside = false;
            at += 1;
        }
        while at < close {
            let from = self.pattern[at];
            if from == b'%' {
                if self.pattern.get(at + 1).is_some_and(|class| in_class(c, *class)) {
                    return inside;
                }
                at += 2;
            } else if self.pattern.get(at + 1) == Some(&b'-') && at + 2 < close {
                if (from..=self.pattern[at + 2]).contains(&c) {
                    return inside;
                }
                at += 3;
            } else {
                if from == c {
                    return inside;
                }
                at += 1;
            }
        }
        !inside
    }
}

fn in_class(c: u8, class: u8) -> bool {
    let inside = match class.to_ascii_lowercase() {
        b'a' => c.is_ascii_alphabetic(),
        b'c' => c.is_ascii_control(),
        b'd' => c.is_ascii_digit(),
        b'l' => c.is_ascii_lowercase(),
        b'p' => c.is_ascii_punctuation(),
        b's' => c.is_ascii_whitespace() || c == 11,
        b'u' => c.is_ascii_uppercase(),
        b'w' => c.is_ascii_alphanumeric(),
        b'x' => c.is_ascii_hexdigit(),
        b'z' => c == 0,
        _ => return class == c,
    };
    inside != class.is_ascii_uppercase()
}
