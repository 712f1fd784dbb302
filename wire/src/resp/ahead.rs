//! Looking ahead in what has come: which keys the requests are about that wait to be taken.

/// The second argument of each request that `input` begins with, which is nearly always its key; none of one that has no second. Of
/// what is not whole up to there, and of anything unusual, nothing is said, nor of what comes after it. It is a guess, that decides
/// nothing.
pub fn likely_keys(input: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = Some(input);
    std::iter::from_fn(move || {
        let (count, mut after) = header(rest.take()?, b'*')?;
        let mut second = None;
        for number in 0..count {
            let Some((argument, next)) = bulk(after) else { return second.map(Some) };
            if number == 1 {
                second = Some(argument);
            }
            after = next;
        }
        rest = Some(after);
        Some(second)
    })
}

/// An argument, and what comes after it.
fn bulk(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, after) = header(input, b'$')?;
    let (argument, after) = after.split_at_checked(length)?;
    Some((argument, after.strip_prefix(b"\r\n")?))
}

/// A number of a few digits after a mark, and what comes after its line.
fn header(input: &[u8], mark: u8) -> Option<(usize, &[u8])> {
    let digits = input.strip_prefix(&[mark])?;
    let mut number = 0;
    for (at, digit) in digits.iter().take(8).enumerate() {
        match digit {
            b'0'..=b'9' => number = 10 * number + usize::from(digit - b'0'),
            _ => return Some((number, digits[at..].strip_prefix(b"\r\n")?)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::encode_request;
    use super::*;

    fn keys(input: &[u8]) -> Vec<&[u8]> {
        likely_keys(input).flatten().collect()
    }

    #[test]
    fn the_keys_of_requests_are_told_as_far_as_they_have_come() {
        let mut input = Vec::new();
        let requests: [&[&str]; 5] = [&["GET", "a"], &["PING"], &["SET", "b", "1"], &["GET", ""], &["DEL", "c", "d"]];
        requests.iter().for_each(|request| encode_request(&mut input, request));
        let all: [&[u8]; 4] = [b"a", b"b", b"", b"c"];
        assert_eq!(keys(&input), all);
        assert_eq!(likely_keys(&input).count(), requests.len(), "one for each request");
        for end in 0..input.len() {
            let some = keys(&input[..end]);
            assert_eq!(some, all[..some.len()]);
        }
        let whole = input.len() - "$1\r\nd\r\n".len();
        assert_eq!(keys(&input[..whole]), all, "the key is there, if not the end");
    }

    #[test]
    fn of_anything_unusual_nothing_is_said() {
        let inputs: [&[u8]; 9] = [
            b"",
            b"GET a\r\n",
            b"*2",
            b"*-1\r\n$1\r\na\r\n",
            b"*2\r\n$x\r\n",
            b"*2\r\n$999999999999999999999999\r\n",
            b"*2\r\n$3\r\nGET\r\n$9999999\r\na",
            b"*2\r\n$3\r\nGETxx$1\r\na\r\n",
            b"*0\r\n",
        ];
        for input in inputs {
            assert!(keys(input).is_empty(), "{}", input.escape_ascii());
            assert!(likely_keys(input).count() < 2, "{}", input.escape_ascii());
        }
        assert_eq!(keys(b"*0\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n*9\r\n"), [b"a"]);
    }
}
