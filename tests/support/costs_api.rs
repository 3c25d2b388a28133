//! The costs that the provider has for the same events as its usage.

use serde_json::{Value, json};

use super::usage_api::{Parameters, ReportedUsage};

/// What a million tokens cost, of every model. Input, output and cached tokens cost the same here.
pub const PRICE: f64 = 2.0;

/// The tier whose tokens are free. They are in no cost, not even of zero.
const FREE_TIER: &str = "incentivized-tier";

impl ReportedUsage {
    /// The answer to a query: costs by day, and by `project_id` or `line_item` if they are grouped by it.
    pub fn costs(&self, query: &str) -> Result<Value, &'static str> {
        self.paged(query, &[("1d", 86_400, 7, 180)], Self::day_of_costs)
    }

    fn day_of_costs(&self, start: i64, width: i64, parameters: &Parameters) -> Vec<Value> {
        let groups = self.groups(start, width, parameters, |event| {
            let line_item = format!("{}, input and output", event.model);
            vec![
                ("project_id", event.project.to_owned()),
                ("line_item", line_item),
            ]
        });
        let billed = groups.into_iter().map(|(key, events)| {
            let billed = events.iter().filter(|event| event.tier != FREE_TIER);
            (key, billed.map(|event| event.tokens).sum::<u64>())
        });
        let billed = billed.filter(|(_, tokens)| *tokens > 0);
        let results = billed.map(|(key, tokens)| {
            #[allow(clippy::cast_precision_loss)]
            let value = tokens as f64 * PRICE / 1e6;
            json!({
                "object": "organization.costs.result", "amount": { "value": value, "currency": "usd" },
                "project_id": key[0], "line_item": key[1],
            })
        });
        results.collect()
    }
}
