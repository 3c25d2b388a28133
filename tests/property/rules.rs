//! The policies of the property tests: their varied parts, and their text.

use std::collections::BTreeMap;

use tollgate::domain::UtcDay;

/// A name with characters that are special in keys, hash tags, fields and patterns.
pub const HOSTILE_NAME: &str = "a:{b}%3A é";

/// The varied parts of a policy.
#[derive(Debug, Clone)]
pub struct Rules {
    pub closes: bool,
    /// Pool → (models, allowance).
    pub pools: BTreeMap<&'static str, (Vec<&'static str>, u64)>,
    pub orgs: BTreeMap<&'static str, Sharing>,
    /// The margins: of the programme, of the pool `mini`, of the organization `acme`.
    pub margins: [Option<Margin>; 3],
    /// The shares of projects of `acme`: project, pool, tokens.
    pub shares: Vec<(&'static str, &'static str, u64)>,
    /// Whether FREE reservations are carried into the next day: it is always noon.
    pub guards: bool,
    /// The last free day, as days after the first.
    pub ends_after: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    All,
    Selected(&'static str),
    Off,
    ZeroDataRetention,
    Enterprise,
}

/// A margin: its text in the policy, and the tokens of an allowance.
pub type Margin = (&'static str, fn(u64) -> u64);

/// A policy change. Each applies to the first policy, not to the last.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    Nothing,
    Cut,
    Raise,
    OptOut,
    OrgLeaves,
    SharingOff,
    PoolLeaves,
    ModelMoves,
    OtherOverflow,
    Margins,
    OwnMargin,
    Guard,
    Shares,
    OtherShares,
    End,
}

impl Change {
    pub const ALL: [Self; 17] = [
        Self::Nothing,
        Self::Cut,
        Self::Raise,
        Self::OptOut,
        Self::OrgLeaves,
        Self::SharingOff,
        Self::PoolLeaves,
        Self::ModelMoves,
        Self::OtherOverflow,
        Self::Margins,
        Self::OwnMargin,
        // As often as two others: it takes a day to show.
        Self::Guard,
        Self::Guard,
        Self::Shares,
        Self::Shares,
        Self::OtherShares,
        Self::End,
    ];
}

pub fn rules(closes: bool, change: Change, day: u32) -> Rules {
    let mut rules = Rules {
        closes,
        pools: [
            ("large", (vec!["gpt-4o", "o1", HOSTILE_NAME], 1_000)),
            ("mini", (vec!["gpt-4o-mini"], 400)),
        ]
        .into(),
        orgs: [
            ("acme", Sharing::All),
            (HOSTILE_NAME, Sharing::All),
            ("some", Sharing::Selected("p")),
            ("off", Sharing::Off),
            ("zdr", Sharing::ZeroDataRetention),
            ("big", Sharing::Enterprise),
        ]
        .into(),
        margins: [None; 3],
        shares: Vec::new(),
        guards: false,
        ends_after: None,
    };
    let large = |allowance| (vec!["gpt-4o", "o1", HOSTILE_NAME], allowance);
    match change {
        Change::Nothing => {}
        Change::Cut => drop(rules.pools.insert("large", large(350))),
        Change::Raise => drop(rules.pools.insert("large", large(2_500))),
        Change::OptOut => drop(rules.orgs.insert("acme", Sharing::Selected("q"))),
        Change::OrgLeaves => drop(rules.orgs.remove("acme")),
        Change::SharingOff => drop(rules.orgs.insert("acme", Sharing::Off)),
        Change::PoolLeaves => drop(rules.pools.remove("large")),
        Change::ModelMoves => {
            rules
                .pools
                .insert("large", (vec!["gpt-4o", HOSTILE_NAME], 1_000));
            rules.pools.insert("mini", (vec!["gpt-4o-mini", "o1"], 400));
        }
        Change::OtherOverflow => rules.closes = !closes,
        Change::Margins => {
            let fifth: Margin = ("\"20%\"", |allowance| allowance.div_ceil(5));
            rules.margins = [Some(fifth), Some(("33", |_| 33)), None];
        }
        Change::OwnMargin => {
            let own: Margin = ("\"0.15%\"", |allowance| (15 * allowance).div_ceil(10_000));
            rules.margins = [Some(("999", |_| 999)), None, Some(own)];
        }
        Change::Guard => rules.guards = true,
        Change::Shares => {
            rules.shares = vec![("p", "large", 500), ("q", "large", 999), ("q", "mini", 100)];
        }
        Change::OtherShares => {
            rules.shares = vec![
                ("p", "large", 333),
                ("p", "mini", 133),
                ("(other)", "large", 200),
            ];
        }
        Change::End => rules.ends_after = Some(day),
    }
    rules
}

impl Rules {
    /// What no Reserve of an organization gets of a pool's allowance.
    pub fn margin(&self, org: &str, pool: &str, allowance: u64) -> u64 {
        let [program, mini, acme] = self.margins;
        let own = acme.filter(|_| org == "acme");
        let margin = own.or(mini.filter(|_| pool == "mini")).or(program);
        margin.map_or(0, |(_, tokens)| tokens(allowance))
    }

    /// What a project may use of a pool.
    pub fn share(&self, org: &str, project: &str, pool: &str) -> Option<u64> {
        let mut shares = self.shares.iter().filter(|_| org == "acme");
        let share = shares.find(|(of, its, _)| (*of, *its) == (project, pool));
        share.map(|(.., tokens)| *tokens)
    }

    fn shares_text(&self) -> String {
        let mut by_project: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (project, pool, tokens) in &self.shares {
            let of_pools = by_project.entry(project).or_default();
            of_pools.push(format!("{pool} = {tokens}"));
        }
        let lines = by_project
            .into_iter()
            .map(|(project, of_pools)| format!("{project:?} = {{ {} }}\n", of_pools.join(", ")));
        format!("[orgs.acme.shares]\n{}", lines.collect::<String>())
    }

    /// The policy file with these rules.
    pub fn text(&self, first_day: UtcDay) -> String {
        let overflow = if self.closes {
            "close_until_reset"
        } else {
            "keep_open"
        };
        let guard = if self.guards { "12h" } else { "1h" };
        let mut text =
            format!("[program]\noverflow = \"{overflow}\"\nmidnight_guard = \"{guard}\"\n");
        if let Some(days) = self.ends_after {
            text += &format!("ends_on = \"{}\"\n", first_day.plus_days(days));
        }
        let [program, mini, acme] = self
            .margins
            .map(|margin| margin.map_or(String::new(), |(text, _)| format!("margin = {text}\n")));
        text += &program;
        let mut tier = "[tiers.1]\n".to_owned();
        for (pool, (models, allowance)) in &self.pools {
            let margin = if *pool == "mini" { &mini } else { "" };
            text += &format!("[pools.{pool}]\nmodels = {models:?}\n{margin}");
            tier += &format!("{pool} = {allowance}\n");
        }
        text += &tier;
        for (org, sharing) in &self.orgs {
            let sharing = match sharing {
                Sharing::All => "data_sharing = \"all\"".to_owned(),
                Sharing::Selected(it) => {
                    format!("data_sharing = \"selected\"\nprojects = [\"{it}\"]")
                }
                Sharing::Off => "data_sharing = \"off\"".to_owned(),
                Sharing::ZeroDataRetention => {
                    "data_sharing = \"all\"\nzero_data_retention = true".to_owned()
                }
                Sharing::Enterprise => "data_sharing = \"all\"\nenterprise = true".to_owned(),
            };
            let margin = if *org == "acme" { &acme } else { "" };
            text += &format!("[orgs.{org:?}]\ntier = 1\n{margin}{sharing}\n");
            if *org == "acme" && !self.shares.is_empty() {
                text += &self.shares_text();
            }
        }
        text
    }
}
