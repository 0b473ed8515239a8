//! What the documents promise to list, they list.

#[test]
fn every_drop_reason_is_explained() {
    let text = include_str!("../../docs/operations.md");
    let (ingress, egress) = text
        .split_once("## Drop reasons")
        .and_then(|(_, rest)| rest.split_once("\n\n| reason").map(|(_, rest)| rest))
        .and_then(|rest| rest.split_once("\n\n| reason"))
        .expect("two tables of drop reasons");
    for reason in policy::DropReason::ALL {
        let table = match reason.stage() {
            policy::Stage::Ingress => ingress,
            policy::Stage::Egress => egress,
        };
        let row = format!("\n| `{reason}` |");
        assert!(table.contains(&row), "{reason} is not in its table");
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
