//! Single routes of routers, changed on the running switch.
//!
//! In: routes to put in and to take out. Out: the same policy with those routes, in force until the
//! next configuration is applied. What must hold: no rule is looked at, no text is read or written,
//! and nothing is in proportion to the routes that stay: a table's versions share what they have
//! in common.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use policy::{
    Epoch,
    model::Model,
    route::{Origin, Route, RouteTable},
};

use super::{Control, ControlError, Hands, compile};
use crate::{
    api::types::{RouteChange, RouteSpec, RoutesChanged},
    config::{self, problem::nearest, types::Router},
};

/// The most routes that differ from the configuration's.
const MOST_EDITS: usize = 1 << 20;

/// What was changed of routers' routes since the last configuration, by router.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteEdits(Arc<HashMap<Arc<str>, Edits>>);

/// Of one router.
#[derive(Clone, Debug, Default)]
struct Edits {
    added: HashSet<Route>,
    /// Those of the configuration that were taken out.
    deleted: HashSet<Route>,
}

impl RouteEdits {
    /// Makes the changes in a model that was made of a configuration.
    pub(super) fn put_into(&self, model: &mut Model) {
        for router in &mut model.routers {
            let Some(edits) = self.0.get(&router.name) else {
                continue;
            };
            let mut routes = router.routes.clone();
            // A route that a configuration has not, or has already, is as it is wanted.
            for route in &edits.deleted {
                let _ = routes.remove(route);
            }
            for route in &edits.added {
                let _ = routes.insert(route.clone());
            }
            *router = Arc::new(policy::router::Router {
                routes,
                ..(**router).clone()
            });
        }
    }

    fn note(&mut self, router: &Arc<str>, (added, deleted): (Vec<Route>, Vec<Route>)) {
        let all = Arc::make_mut(&mut self.0);
        let edits = all.entry(Arc::clone(router)).or_default();
        for route in deleted {
            if route.origin == Origin::Api {
                edits.added.remove(&route);
            } else {
                edits.deleted.insert(route);
            }
        }
        edits.added.extend(added);
    }

    fn len(&self) -> usize {
        let each = self.0.values();
        each.map(|edits| edits.added.len() + edits.deleted.len())
            .sum()
    }
}

impl Control {
    /// Puts routes into a router and takes others out, in one step.
    ///
    /// # Errors
    ///
    /// [`ControlError`]; nothing was changed then: there is no such router or route, a route is there
    /// already or is not well formed, or the workers do not follow.
    pub fn change_routes(
        &self,
        name: &str,
        change: &RouteChange,
    ) -> Result<RoutesChanged, ControlError> {
        let began = Instant::now();
        let mut hands = self.hands.lock();
        let config = self.config();
        let Some(written) = config.routers.iter().find(|router| *router.name == *name) else {
            let known = config.routers.iter().map(|router| &*router.name);
            return Err(ControlError::NotFound {
                message: format!("there is no router \"{name}\""),
                help: nearest(name, known),
            });
        };
        let Some(place) = hands.model.routers.iter().position(|r| *r.name == *name) else {
            return Err(ControlError::TooMany);
        };
        let router = Arc::clone(&hands.model.routers[place]);
        let mut routes = router.routes.clone();
        let deleted = delete(&mut routes, written, &change.delete)?;
        let added = add(&mut routes, written, &change.add)?;
        if hands.route_edits.len() + added.len() + deleted.len() > MOST_EDITS {
            return Err(ControlError::Refused(format!(
                "more than {MOST_EDITS} routes would differ from the configuration; write them into it and apply that"
            )));
        }
        let mut done = RoutesChanged {
            added: added.len(),
            deleted: deleted.len(),
            ..RoutesChanged::default()
        };
        let changed = policy::router::Router {
            routes,
            ..(*router).clone()
        };
        hands.model.routers[place] = Arc::new(changed);
        if let Err(error) = self.publish_model(&mut hands) {
            hands.model.routers[place] = router;
            return Err(error);
        }
        hands.route_edits.note(&written.name, (added, deleted));
        done.epoch = hands.epoch;
        done.took_us = began.elapsed().as_micros() as u64;
        tracing::info!(
            router = name,
            added = done.added,
            deleted = done.deleted,
            epoch = done.epoch,
            took_us = done.took_us,
            rules_compiled = hands.compiler.rules_read(),
            "routes changed"
        );
        Ok(done)
    }

    /// Puts the model in force as it is now.
    fn publish_model(&self, hands: &mut Hands) -> Result<(), ControlError> {
        hands.epoch += 1;
        let compiled = hands.compiler.compile(&hands.model, Epoch(hands.epoch));
        let snapshot = compiled.map_err(ControlError::Compile)?;
        let config = self.config();
        hands.work = super::apply::Work {
            compiled: hands.compiler.rules_read(),
            ..super::apply::Work::default()
        };
        let snapshot = snapshot.with_connections(config.connections.settings);
        let resolution = self.resolve_mirrors(hands, &config, &snapshot);
        let mirrors = Arc::clone(&resolution.mirrors);
        self.datapath.publish(snapshot, mirrors)?;
        self.commit(hands, resolution);
        Ok(())
    }
}

/// Takes routes out of a table. Returns them.
fn delete(
    routes: &mut RouteTable,
    router: &Router,
    specs: &[RouteSpec],
) -> Result<Vec<Route>, ControlError> {
    let mut deleted = Vec::new();
    for spec in specs {
        let leads = !spec.via.is_empty() || spec.network.is_some() || spec.action.is_some();
        let sample = read(spec, leads, router)?;
        let fits = |route: &Route| {
            route.origin != Origin::Network
                && spec.metric.is_none_or(|metric| route.metric == metric)
                && (!leads || route.target == sample.target)
        };
        let found: Vec<Route> = routes.get(sample.prefix).filter(fits).collect();
        if found.is_empty() {
            let is_network = routes.get(sample.prefix).next().is_some() && !leads;
            let message = if is_network {
                format!(
                    "{} is a network of router \"{}\" itself",
                    sample.prefix, router.name
                )
            } else {
                format!(
                    "router \"{}\" has no such route to {}",
                    router.name, spec.to
                )
            };
            return Err(ControlError::NotFound {
                message,
                help: format!("`vswitch show routes --router {}` lists them", router.name),
            });
        }
        for route in found {
            let refused =
                |error: policy::route::RouteError| ControlError::Refused(error.to_string());
            routes.remove(&route).map_err(refused)?;
            deleted.push(route);
        }
    }
    Ok(deleted)
}

/// Puts routes into a table. Returns them.
fn add(
    routes: &mut RouteTable,
    router: &Router,
    specs: &[RouteSpec],
) -> Result<Vec<Route>, ControlError> {
    let mut added = Vec::new();
    for spec in specs {
        let route = read(spec, true, router)?;
        let same = |other: &Route| other.metric == route.metric && other.target == route.target;
        if routes.get(route.prefix).any(|other| same(&other)) {
            return Err(ControlError::Refused(format!(
                "router \"{}\" has that route to {} already",
                router.name, spec.to
            )));
        }
        let refused = |error: policy::route::RouteError| ControlError::Refused(error.to_string());
        routes.insert(route.clone()).map_err(refused)?;
        added.push(route);
    }
    Ok(added)
}

/// A route as the configuration would say it. Without `leads` it is only a prefix.
fn read(spec: &RouteSpec, leads: bool, router: &Router) -> Result<Route, ControlError> {
    let mut spec = spec.clone();
    if !leads {
        // Where it leads is not asked for.
        spec.action = Some("blackhole".into());
    }
    let text = toml::to_string(&spec).map_err(|error| ControlError::Refused(error.to_string()))?;
    let route = config::read_route(&text, &router.interfaces)?;
    compile::route(&route, Origin::Api).ok_or_else(|| {
        let most = policy::route::MAX_NEXT_HOPS;
        ControlError::Refused(format!("a route has at most {most} next hops, each once"))
    })
}
