//! Help for whoever wrote a word that is not known.

/// "did you mean" with the nearest of `valid`, and all of them when there are few.
pub fn nearest<'v>(wrong: &str, valid: impl IntoIterator<Item = &'v str>) -> String {
    const LISTED_AT_MOST: usize = 16;
    let valid: Vec<&str> = valid.into_iter().collect();
    // Two letters that changed places make another word of a short one, to Jaro and Winkler.
    let likeness = |name: &str| {
        let slip = wrong.len() > 2 && strsim::osa_distance(wrong, name) == 1;
        strsim::jaro_winkler(wrong, name).max(if slip { 0.8 } else { 0.0 })
    };
    let best = valid
        .iter()
        .map(|name| (likeness(name), *name))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((_, name)) => format!("did you mean \"{name}\"?"),
        None if valid.is_empty() => "there is none yet".into(),
        None if valid.len() <= LISTED_AT_MOST => format!("valid are: {}", valid.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered() {
        assert_eq!(nearest("bleu", ["blue", "red"]), "did you mean \"blue\"?");
        assert_eq!(nearest("tpc", ["udp", "tcp"]), "did you mean \"tcp\"?");
        assert_eq!(nearest("zzz", ["blue", "red"]), "valid are: blue, red");
    }
}
