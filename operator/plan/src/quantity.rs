//! Kubernetes quantities (`100m`, `10Gi`, `1e3`), as far as comparing them needs.
//!
//! Syntax: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>

/// A quantity in thousandths, rounded up like Kubernetes does with finer ones; `None` if it is not one.
pub fn parse(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    scaled(&text[..end], &text[end..])
}

fn scaled(number: &str, suffix: &str) -> Option<i128> {
    let (digits, decimals) = decimal(number)?;
    let (numerator, denominator): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        _ => exponent(suffix)?,
    };
    let divisor = denominator.checked_mul(10i128.checked_pow(decimals)?)?;
    let product = digits.checked_mul(numerator)?;
    Some(product.div_euclid(divisor) + i128::from(product.rem_euclid(divisor) != 0))
}

fn exponent(suffix: &str) -> Option<(i128, i128)> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let factor = 10i128.checked_pow(power.unsigned_abs().min(30))?;
    if power < 0 { Some((1_000, factor)) } else { Some((factor.checked_mul(1_000)?, 1)) }
}

/// Digits without the point, and how many of them were behind it.
fn decimal(text: &str) -> Option<(i128, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.trim_start_matches(['-', '+']).is_empty() && fraction.is_empty() {
        return None;
    }
    if fraction.contains(['-', '+']) {
        return None;
    }
    let digits = format!("{whole}{fraction}").parse().ok()?;
    Some((digits, u32::try_from(fraction.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_quantities_are_equal_however_they_are_written() {
        for (a, b) in [("0.1", "100m"), ("1", "1000m"), ("1Gi", "1024Mi"), ("1e3", "1k"), ("0.5Gi", "512Mi"), ("1E", "1000P")] {
            assert_eq!(parse(a), parse(b), "{a} {b}");
            assert!(parse(a).is_some(), "{a}");
        }
    }

    #[test]
    fn different_quantities_are_different() {
        assert!(parse("1G") < parse("1Gi"));
        assert!(parse("-1") < parse("0"));
        assert_eq!(parse("1n"), Some(1), "too fine is rounded up");
    }

    #[test]
    fn other_texts_are_no_quantities() {
        for text in ["", "-", ".", "Gi", "1 Gi", "1GiB", "ten", "1.2.3", "1-2", "1e", "1ee3"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
