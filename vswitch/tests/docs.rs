//! What the documents promise to list, they list.

use std::fmt::Write;

use vswitch::api::{capture_types::CaptureTotals, types::Stats};

#[test]
fn every_drop_reason_is_explained() {
    let text = include_str!("../../docs/drops.md");
    let accounts = text.split("\n## In the account of ").skip(1);
    let sides = [policy::Side::Ingress, policy::Side::Egress];
    for (side, account) in sides.into_iter().zip(accounts) {
        let table: Vec<&str> = account
            .lines()
            .skip_while(|line| !line.starts_with("|---"))
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .collect();
        let reasons = policy::DropReason::ALL.iter();
        let rows = reasons.filter(|reason| reason.side() == side);
        let expected: Vec<String> = rows
            .map(|reason| {
                let (stage, text, advice) = (reason.stage().name(), reason.text(), reason.advice());
                format!("| `{reason}` | {stage} | {text} | {advice} |")
            })
            .collect();
        assert_eq!(table, expected, "docs/drops.md and policy/src/denial.rs");
    }
}

#[test]
fn every_loss_of_a_sniffer_is_explained() {
    let text = include_str!("../../docs/mirroring.md");
    for loss in vswitch::decap::counts::Loss::ALL {
        let row = format!("\n| `{loss}` | {} | {} |", loss.text(), loss.advice());
        assert!(text.contains(&row), "{row} in docs/mirroring.md");
    }
}

#[test]
fn the_example_of_a_decapsulator_is_valid() {
    let text = include_str!("../../examples/decapsulator.toml");
    let machine = vswitch::config::Machine {
        cores: vec![0],
        memory_bytes: 0,
    };
    let parsed = vswitch::config::decapsulator::parse("decapsulator.toml", text, &machine);
    let parsed = parsed.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(parsed.decapsulator.sessions.len(), 2);
    assert_eq!(parsed.decapsulator.sniffers.len(), 4);
}

#[test]
fn every_refusal_of_a_service_is_explained() {
    let text = include_str!("../../docs/services.md");
    for refusal in vswitch::services::refusal::Refusal::ALL {
        let row = format!("\n| `{refusal}` | {} |", refusal.text());
        assert!(text.contains(&row), "{row} in docs/services.md");
    }
}

#[test]
fn every_feature_of_a_guest_is_documented() {
    let config = include_str!("../../docs/config.md");
    let costs = include_str!("../../docs/vm-ports.md");
    for (feature, _) in pmd::vhost_user::Features::known() {
        let row = format!("\n| `{feature}` |");
        assert!(config.contains(&row), "{feature} in docs/config.md");
        assert!(costs.contains(&row), "{feature} in docs/vm-ports.md");
    }
}

#[test]
fn every_route_is_documented() {
    let text = include_str!("../../docs/cli.md");
    let decap = vswitch::decap::api::ROUTES;
    for (method, path) in vswitch::api::ROUTES.iter().chain(decap) {
        let call = format!("`{} {path}", method.to_uppercase());
        assert!(text.contains(&call), "{call}");
    }
}

#[test]
fn every_metric_is_documented() {
    let text = include_str!("../../docs/cli.md");
    let decap = vswitch::decap::metrics::render(&vswitch::decap::view::Everything::default());
    let (stats, captured) = (Stats::default(), CaptureTotals::default());
    let metrics = vswitch::metrics::render(&stats, &[], &[], &captured);
    for line in metrics.lines().chain(decap.lines()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap_or_default();
            assert!(text.contains(&format!("`{name}`")), "{name}");
        }
    }
}

/// The configurations that stand in a document, with the headings that they stand under.
fn recipes(text: &str) -> Vec<(String, String)> {
    let (mut heading, mut recipes, mut open) = (String::new(), Vec::new(), None);
    for line in text.lines() {
        match &mut open {
            Some(_) if line == "```" => recipes.extend(open.take()),
            Some((_, recipe)) => {
                let recipe: &mut String = recipe;
                recipe.push_str(line);
                recipe.push('\n');
            }
            None if line == "```toml" => open = Some((heading.clone(), String::new())),
            None if line.starts_with('#') => line.clone_into(&mut heading),
            None => {}
        }
    }
    recipes
}

#[test]
fn every_recipe_is_a_valid_configuration() {
    let recipes = recipes(include_str!("../../docs/policy.md"));
    assert!(recipes.len() > 6, "{} recipes", recipes.len());
    let machine = vswitch::config::Machine {
        cores: vec![0],
        memory_bytes: 0,
    };
    // What a recipe does not say itself: a network, and a VM's port for each vNIC that it has.
    let network = "[[network]]\nname = \"blue\"\ntenant = \"acme\"\n";
    for (heading, recipe) in recipes {
        let mut text = recipe.clone();
        if !recipe.contains("[[network]]") {
            text.push_str(network);
        }
        for line in recipe.lines().filter(|_| !recipe.contains("[[port]]")) {
            if let Some(port) = line.strip_prefix("port = ") {
                let _ = write!(
                    text,
                    "[[port]]\nname = {port}\ndriver = \"memory\"\nnetwork = \"blue\"\n"
                );
            }
        }
        let config = vswitch::config::parse("policy.md", &text, &machine);
        let config = config.unwrap_or_else(|problems| panic!("{heading}\n{problems}"));
        let lookups = vswitch::control::cost::lookups(&config);
        let lookups = lookups.unwrap_or_else(|error| panic!("{heading}\n{error}"));
        assert!(!config.vnics.is_empty(), "{heading}: no vNIC");
        assert_eq!(lookups.len(), 2 * config.vnics.len(), "{heading}");
    }
}

#[test]
fn the_example_of_mirroring_is_a_valid_configuration() {
    let machine = vswitch::config::Machine {
        cores: vec![0],
        memory_bytes: 0,
    };
    let text = include_str!("../../examples/mirroring.toml");
    let config = vswitch::config::parse("mirroring.toml", text, &machine);
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.mirror_targets.len(), 2);
}

#[test]
fn in_the_example_of_one_host_the_decapsulator_knows_what_the_target_sends() {
    let machine = vswitch::config::Machine {
        cores: vec![0],
        memory_bytes: 0,
    };
    let text = include_str!("../../examples/one-host.toml");
    let config = vswitch::config::parse("one-host.toml", text, &machine);
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    let (target, decap) = (&config.mirror_targets[0], config.decapsulator.expect("one"));
    assert_eq!(decap.addresses, [target.remote]);
    let identity = decap.sessions[0].identity;
    assert_eq!(
        (identity.source(), identity.destination()),
        (target.local, target.remote)
    );
    assert_eq!(identity.kind(), target.kind);
    assert_eq!(identity.id(), Some(*target.numbers.start()));
}

#[test]
fn every_rule_in_the_documents_is_in_its_canonical_form() {
    let mut rules = 0;
    for text in [
        include_str!("../../docs/policy.md"),
        include_str!("../../docs/config.md"),
        include_str!("../../examples/vswitch.toml"),
    ] {
        for quoted in text.split('"').skip(1).step_by(2) {
            let words = ["allow ", "deny ", "reject "];
            if words.iter().any(|word| quoted.starts_with(word)) {
                let rule: policy::rule::WrittenRule =
                    quoted.parse().unwrap_or_else(|e| panic!("{quoted}: {e}"));
                assert_eq!(rule.to_string(), quoted);
                rules += 1;
            }
        }
    }
    assert!(rules > 20, "{rules} rules");
}
