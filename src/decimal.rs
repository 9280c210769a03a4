//! Formatting of integers without an allocation, for answers and log lines.

/// Appends `number` in decimal.
#[inline]
pub fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    // u64::MAX has 20 digits.
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result is the same as that of the standard formatter.
    #[test]
    fn decimals() {
        for number in [0, 9, 10, 200, 8_192, u64::MAX] {
            let mut out = b"n = ".to_vec();
            push_decimal(&mut out, number);
            assert_eq!(out, format!("n = {number}").as_bytes());
        }
    }
}
