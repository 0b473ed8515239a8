//! What the documents promise to list, they list.

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
    for (method, path) in vswitch::api::ROUTES {
        let call = format!("`{} {path}", method.to_uppercase());
        assert!(text.contains(&call), "{call}");
    }
}

#[test]
fn every_metric_is_documented() {
    let text = include_str!("../../docs/cli.md");
    let metrics = vswitch::metrics::render(&vswitch::api::types::Stats::default(), &[]);
    for line in metrics.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap_or_default();
            assert!(text.contains(&format!("`{name}`")), "{name}");
        }
    }
}
