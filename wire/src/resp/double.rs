//! Doubles as text: the shortest digits that read back as the same number, laid out as Redis lays them out.
//!
//! Redis 7.2 and later print `0.1`, `3`, `1e+20` and `1.5e-7`; 7.0 and earlier printed 17 digits, `0.10000000000000001`.

use std::fmt::Write;

/// The longest text of a double.
pub const DOUBLE_BYTES_MAX: usize = 32;

/// What is written of a double, into a buffer of the caller's.
pub fn double_text(value: f64, buffer: &mut [u8; DOUBLE_BYTES_MAX]) -> &[u8] {
    let mut out = Stack { bytes: buffer, len: 0 };
    out.double(value);
    let Stack { bytes, len } = out;
    &bytes[..len]
}

struct Stack<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Stack<'_> {
    fn push(&mut self, text: &[u8]) {
        // The texts below are at most 25 bytes long.
        if let Some(place) = self.bytes.get_mut(self.len..self.len + text.len()) {
            place.copy_from_slice(text);
            self.len += text.len();
        }
    }

    fn double(&mut self, value: f64) {
        if value.is_nan() {
            return self.push(b"nan");
        }
        if value.is_infinite() {
            return self.push(if value > 0.0 { b"inf" } else { b"-inf" });
        }
        // Up to here every whole number is one, and is shown as one.
        if value.abs() < (1u64 << 52) as f64 && value.fract() == 0.0 && (value != 0.0 || value.is_sign_positive()) {
            let mut digits = [0; 20];
            return self.push(super::writer::decimal(value as i64, &mut digits));
        }
        if value == 0.0 {
            return self.push(b"-0");
        }
        self.digits(value);
    }

    fn digits(&mut self, value: f64) {
        // As `-d.dddde-dd`, which has the shortest digits.
        let mut scratch = [0; DOUBLE_BYTES_MAX];
        let mut text = Stack { bytes: &mut scratch, len: 0 };
        let written = write!(text, "{:e}", value.abs());
        debug_assert!(written.is_ok());
        let len = text.len;
        let text = &scratch[..len];
        let e = super::find(text, 0, b'e').unwrap_or(len);
        let mut exponent: i32 = 0;
        for byte in text.iter().skip(e + 1).filter(|byte| byte.is_ascii_digit()) {
            exponent = exponent * 10 + i32::from(byte - b'0');
        }
        if text.get(e + 1) == Some(&b'-') {
            exponent = -exponent;
        }
        let (mut digits, mut count) = ([0; DOUBLE_BYTES_MAX], 0);
        for byte in text[..e].iter().filter(|byte| **byte != b'.') {
            digits[count] = *byte;
            count += 1;
        }
        let digits = &digits[..count];
        if value < 0.0 {
            self.push(b"-");
        }
        // The value is the digits as a whole number, times ten to this power.
        let power = exponent + 1 - count as i32;
        if power >= 0 && exponent < count as i32 + 7 {
            self.push(digits);
            self.push(&[b'0'; 8][..power as usize]);
        } else if power < 0 && (power > -7 || exponent.abs() < 4) {
            if exponent < 0 {
                self.push(b"0.");
                self.push(&[b'0'; 8][..(-exponent - 1) as usize]);
                self.push(digits);
            } else {
                let whole = (exponent + 1) as usize;
                self.push(&digits[..whole]);
                self.push(b".");
                self.push(&digits[whole..]);
            }
        } else {
            self.push(&digits[..1]);
            if count > 1 {
                self.push(b".");
                self.push(&digits[1..]);
            }
            self.push(if exponent < 0 { b"e-" } else { b"e+" });
            let mut text = [0; 20];
            self.push(super::writer::decimal(i64::from(exponent.abs()), &mut text));
        }
    }
}

impl Write for Stack<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
