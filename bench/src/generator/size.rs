//! How long frames are.

use std::str::FromStr;

/// A mix of frame lengths, in bytes, without FCS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeMix {
    /// The lengths in the order in which they are sent, over and over.
    pub pattern: Vec<usize>,
}

impl SizeMix {
    /// Every frame is of one length.
    pub fn fixed(size_bytes: usize) -> Self {
        Self {
            pattern: vec![size_bytes],
        }
    }

    /// The simple Internet mix: seven short frames, four of middling length, one long, that is
    /// 64, 594 and 1518 bytes with FCS, spread evenly.
    pub fn imix() -> Self {
        const SHORT: usize = 60;
        const MIDDLE: usize = 590;
        const LONG: usize = 1514;
        Self {
            pattern: vec![
                SHORT, MIDDLE, SHORT, SHORT, MIDDLE, SHORT, LONG, SHORT, MIDDLE, SHORT, MIDDLE,
                SHORT,
            ],
        }
    }

    /// The different lengths.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = self.pattern.clone();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

impl FromStr for SizeMix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::imix());
        }
        let size = text.parse();
        size.map(Self::fixed)
            .map_err(|_| format!("\"{text}\" is neither a number of bytes nor imix"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imix_is_seven_four_one() {
        let mix = SizeMix::imix();
        let count = |size| mix.pattern.iter().filter(|s| **s == size).count();
        assert_eq!((count(60), count(590), count(1514)), (7, 4, 1));
        assert_eq!(mix.sizes(), [60, 590, 1514]);
        assert_eq!("imix".parse(), Ok(mix));
        assert_eq!("128".parse(), Ok(SizeMix::fixed(128)));
        assert!("x".parse::<SizeMix>().is_err());
    }
}
