//! Numbers as text and back, as C prints and reads them: alike on every machine.
//!
//! Lua shows a number with `%.14g` and reads one with `strtod`. Both are written here, because what a script sees must not
//! depend on a C library. A NaN has no sign here: it is always the one that `0/0` gives, and shown as `-nan`.

/// The only NaN there is, so that its bits are alike on every processor.
pub const NAN: f64 = f64::from_bits(0xfff8_0000_0000_0000);

/// Replaces whatever NaN a processor made by ours.
#[inline]
pub fn canonical(number: f64) -> f64 {
    if number.is_nan() { NAN } else { number }
}

/// How a conversion of `printf` is to look.
#[derive(Clone, Copy, Default)]
pub struct Flags {
    pub left: bool,
    pub plus: bool,
    pub space: bool,
    pub alternate: bool,
    pub zero: bool,
    pub upper: bool,
    pub width: usize,
}

impl Flags {
    /// Puts sign and digits into the width.
    pub fn pad(self, negative: bool, digits: &str, zeros: bool) -> String {
        let sign = match (negative, self.plus, self.space) {
            (true, _, _) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            (false, false, false) => "",
        };
        let fill = self.width.saturating_sub(sign.len() + digits.len());
        if self.left {
            format!("{sign}{digits}{}", " ".repeat(fill))
        } else if zeros && self.zero {
            format!("{sign}{}{digits}", "0".repeat(fill))
        } else {
            format!("{}{sign}{digits}", " ".repeat(fill))
        }
    }
}

/// What every conversion of a number that is not finite gives.
fn not_finite(number: f64, flags: Flags) -> Option<String> {
    if number.is_finite() {
        return None;
    }
    let name = if number.is_nan() { "nan" } else { "inf" };
    let name = if flags.upper { name.to_uppercase() } else { name.to_string() };
    Some(flags.pad(number.is_nan() || number < 0.0, &name, false))
}

/// `%e`.
pub fn exponential(number: f64, precision: usize, flags: Flags) -> String {
    if let Some(text) = not_finite(number, flags) {
        return text;
    }
    let text = format!("{:.*e}", precision, number.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let mut digits = mantissa.to_string();
    if flags.alternate && precision == 0 {
        digits.push('.');
    }
    push_exponent(&mut digits, exponent.parse().unwrap_or(0));
    flags.pad(number.is_sign_negative(), &cased(digits, flags), true)
}

/// `%f`.
pub fn fixed(number: f64, precision: usize, flags: Flags) -> String {
    if let Some(text) = not_finite(number, flags) {
        return text;
    }
    let mut digits = format!("{:.*}", precision, number.abs());
    if flags.alternate && precision == 0 {
        digits.push('.');
    }
    flags.pad(number.is_sign_negative(), &digits, true)
}

/// `%g`.
pub fn general(number: f64, precision: usize, flags: Flags) -> String {
    if let Some(text) = not_finite(number, flags) {
        return text;
    }
    let precision = precision.max(1);
    let text = format!("{:.*e}", precision - 1, number.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = if exponent < -4 || exponent >= precision as i32 {
        let mut digits = trimmed(mantissa, flags);
        push_exponent(&mut digits, exponent);
        cased(digits, flags)
    } else {
        let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
        trimmed(&format!("{:.*}", decimals, number.abs()), flags)
    };
    flags.pad(number.is_sign_negative(), &digits, true)
}

fn push_exponent(digits: &mut String, exponent: i32) {
    let sign = if exponent < 0 { '-' } else { '+' };
    digits.push_str(&format!("e{sign}{:02}", exponent.abs()));
}

fn cased(digits: String, flags: Flags) -> String {
    if flags.upper { digits.to_uppercase() } else { digits }
}

fn trimmed(digits: &str, flags: Flags) -> String {
    if flags.alternate || !digits.contains('.') {
        return digits.to_string();
    }
    digits.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// As `tostring` shows it: `%.14g`.
pub fn show(number: f64) -> String {
    if number == number.trunc() && number.abs() < 1e14 && (number != 0.0 || number.is_sign_positive()) {
        return (number as i64).to_string();
    }
    general(number, 14, Flags::default())
}

/// As an argument of a command: `%.17g`.
pub fn show_exactly(number: f64) -> String {
    if number == number.trunc() && number.abs() < 1e15 && (number != 0.0 || number.is_sign_positive()) {
        return (number as i64).to_string();
    }
    general(number, 17, Flags::default())
}

/// The number at the start of `text`, as `strtod` finds it, and how many bytes it takes; nothing if there is none.
pub fn prefix(text: &[u8]) -> Option<(f64, usize)> {
    let mut at = text.iter().take_while(|c| c.is_ascii_whitespace() || **c == 0x0b).count();
    let negative = text.get(at) == Some(&b'-');
    if matches!(text.get(at), Some(b'-' | b'+')) {
        at += 1;
    }
    let rest = &text[at..];
    let (number, used) = if starts(rest, b"0x") {
        hexadecimal(&rest[2..]).map_or((0.0, 1), |(number, used)| (number, used + 2))
    } else if starts(rest, b"infinity") {
        (f64::INFINITY, 8)
    } else if starts(rest, b"inf") {
        (f64::INFINITY, 3)
    } else if starts(rest, b"nan") {
        (NAN, 3)
    } else {
        decimal(rest)?
    };
    let number = if negative && !number.is_nan() { -number } else { number };
    Some((number, at + used))
}

/// `text` as a number, if that is all it is, but for white space around it.
pub fn whole(text: &[u8]) -> Option<f64> {
    let (number, used) = prefix(text)?;
    text[used..].iter().all(|c| c.is_ascii_whitespace() || *c == 0x0b).then_some(number)
}

fn starts(text: &[u8], with: &[u8]) -> bool {
    text.len() >= with.len() && text[..with.len()].eq_ignore_ascii_case(with)
}

fn decimal(text: &[u8]) -> Option<(f64, usize)> {
    let digits = |from: usize| text[from..].iter().take_while(|c| c.is_ascii_digit()).count();
    let whole = digits(0);
    let mut end = whole;
    let mut count = whole;
    if text.get(end) == Some(&b'.') {
        let decimals = digits(end + 1);
        count += decimals;
        end += 1 + decimals;
    }
    if count == 0 {
        return None;
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let signed = end + 1 + usize::from(matches!(text.get(end + 1), Some(b'-' | b'+')));
        let exponent = if signed <= text.len() { digits(signed) } else { 0 };
        if exponent > 0 {
            end = signed + exponent;
        }
    }
    // Digits, one point and an exponent: ASCII, and in the form that the standard library reads.
    let number = str::from_utf8(&text[..end]).ok()?.parse().ok()?;
    Some((number, end))
}

fn hexadecimal(text: &[u8]) -> Option<(f64, usize)> {
    let mut number = 0.0_f64;
    let mut exponent = 0_i32;
    let mut at = 0;
    let mut seen = false;
    let mut point = false;
    while let Some(&c) = text.get(at) {
        if c == b'.' && !point {
            point = true;
        } else if let Some(digit) = (c as char).to_digit(16) {
            seen = true;
            // Past the bits of a double only the magnitude counts.
            if number < 1e20 {
                number = number * 16.0 + f64::from(digit);
                exponent = exponent.saturating_sub(if point { 4 } else { 0 });
            } else if !point {
                exponent = exponent.saturating_add(4);
            }
        } else {
            break;
        }
        at += 1;
    }
    if !seen {
        return None;
    }
    if matches!(text.get(at), Some(b'p' | b'P')) {
        let negative = text.get(at + 1) == Some(&b'-');
        let from = at + 1 + usize::from(matches!(text.get(at + 1), Some(b'-' | b'+')));
        let digits = text.get(from..).unwrap_or(&[]).iter().take_while(|c| c.is_ascii_digit()).count();
        if digits > 0 {
            let mut power = 0_i32;
            for &c in &text[from..from + digits] {
                power = power.saturating_mul(10).saturating_add(i32::from(c - b'0'));
            }
            exponent = exponent.saturating_add(if negative { -power } else { power });
            at = from + digits;
        }
    }
    Some((libm::scalbn(number, exponent), at))
}

/// A number as C converts it to a 64-bit integer: what does not fit becomes the lowest.
#[inline]
pub fn to_i64(number: f64) -> i64 {
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number) { number as i64 } else { i64::MIN }
}

/// A number as C converts it to an unsigned 64-bit integer.
pub fn to_u64(number: f64) -> u64 {
    if number >= 9_223_372_036_854_775_808.0 { number as u64 } else { to_i64(number) as u64 }
}

/// `x ^ y`, alike on every machine; exact where both are whole and the result is small.
pub fn power(x: f64, y: f64) -> f64 {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if (0.0..=64.0).contains(&y) && y == y.trunc() && x == x.trunc() && x.abs() <= WHOLE_MAX {
        let mut result = 1.0_f64;
        for _ in 0..y as u32 {
            result *= x;
            if result.abs() > WHOLE_MAX {
                return canonical(libm::pow(x, y));
            }
        }
        return result;
    }
    canonical(libm::pow(x, y))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_c_shows_them() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-17.0, "-17"),
            (1e14, "1e+14"),
            (123456789012345.0, "1.2345678901234e+14"),
            (0.1, "0.1"),
            (1.0 / 3.0, "0.33333333333333"),
            (1e100, "1e+100"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (NAN, "-nan"),
        ] {
            assert_eq!(show(number), text);
        }
        assert_eq!(show_exactly(0.1), "0.10000000000000001");
        assert_eq!(show_exactly(3.0), "3");
    }

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (text, number) in [
            ("10", Some(10.0)),
            (" 10 ", Some(10.0)),
            ("1e2", Some(100.0)),
            ("1e", None),
            ("0x10", Some(16.0)),
            ("0x1p4", Some(16.0)),
            ("-0x1.8", Some(-1.5)),
            (".5", Some(0.5)),
            ("5.", Some(5.0)),
            (".", None),
            ("", None),
            ("-", None),
            ("inf", Some(f64::INFINITY)),
            ("1 2", None),
            ("0x", None),
        ] {
            assert_eq!(whole(text.as_bytes()), number, "{text:?}");
        }
    }

    #[test]
    fn whole_powers_are_exact() {
        assert_eq!(power(2.0, 53.0), 9_007_199_254_740_992.0);
        assert_eq!(power(10.0, 15.0), 1e15);
        assert_eq!(power(2.0, 0.5), core::f64::consts::SQRT_2);
        assert_eq!(power(2.0, -1.0), 0.5);
    }
}
