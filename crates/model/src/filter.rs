//! List queries: which objects, in which order, which part of them, and how they are shown.

use std::cmp::Ordering;
use std::net::IpAddr;

use regex::{Regex, RegexBuilder};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::excerpt::Excerpt;
use crate::subnets::Network;
use crate::table::{IndexDef, IndexKind, Noun};
use crate::{ApiError, Lookup, Object, name, params};

/// More than any client has reason to send.
const MAX_CONDITIONS: usize = 200;

/// The query of a list, as `GET /X?...` and `HEAD /X?...` have it.
#[derive(Clone, Debug, Default)]
pub struct Query {
    conditions: Vec<Condition>,
    sort: Vec<Subject>,
    reverse: bool,
    offset: usize,
    limit: Option<usize>,
    /// Members that come out empty (`Params`, `Meta`).
    pub slim: Vec<String>,
    /// Only these params are shown.
    pub params: Option<Vec<String>>,
    /// Secure params in clear text, for those who may.
    pub decode: bool,
    /// Params from all sources instead of the object's own.
    pub aggregate: bool,
}

/// All tests of one subject; one of them has to hold.
#[derive(Clone, Debug)]
struct Condition {
    subject: Subject,
    tests: Vec<Test>,
}

/// What a condition or a sort looks at.
#[derive(Clone, Debug, PartialEq)]
enum Subject {
    Index(&'static IndexDef),
    Meta(String),
    Param(String, Declared),
}

/// What a param's declaration says about its values.
#[derive(Clone, Debug, PartialEq)]
enum Declared {
    /// Not declared: only the object's own value counts, and its kind decides how texts are read.
    No,
    /// Declared, with the type that its schema names.
    Typed(Option<String>),
}

#[derive(Clone, Debug)]
enum Test {
    Compare(Op, Operand),
    Between(Operand, Operand),
    Except(Operand, Operand),
    Matches(Regex),
    In(Vec<Operand>),
    NotIn(Vec<Operand>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Eq,
    Ne,
    Lt,
    Lte,
    Gt,
    Gte,
}

/// A value that can be compared. Values of different kinds are ordered by kind.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Operand {
    Nothing,
    Bool(bool),
    Number(f64),
    Int(i64),
    Ip(IpAddr),
    /// Nanoseconds since 1970.
    Time(i128),
    /// First and last address.
    Range(IpAddr, IpAddr),
    Text(String),
}

/// The addresses that a [`IndexKind::Holds`] index stands for.
fn range_of(index: &IndexDef, object: &Object) -> Operand {
    let ends = if index.path == ["Subnet"] {
        let network = Network::parse(crate::text(object, "Subnet"));
        network.map(|network| (network.ends().0.into(), network.ends().1.into()))
    } else {
        let end = |member| crate::text(object, member).parse().ok();
        end("ActiveStart").zip(end("ActiveEnd"))
    };
    ends.map_or(Operand::Nothing, |(first, last)| Operand::Range(first, last))
}

impl Operand {
    /// Equal; a range also equals each address in it.
    fn is(&self, wanted: &Operand) -> bool {
        match (self, wanted) {
            (Operand::Range(first, last), Operand::Ip(address)) => first <= address && address <= last,
            _ => self == wanted,
        }
    }

    fn order(&self, other: &Operand) -> Ordering {
        self.partial_cmp(other).unwrap_or(Ordering::Equal)
    }
}

impl Query {
    /// Reads a query: the pairs of the URL, decoded.
    ///
    /// # Errors
    /// 406 with DRP's text for what cannot be answered.
    pub fn parse<N: AsRef<str>, V: AsRef<str>>(
        noun: &'static Noun,
        pairs: impl IntoIterator<Item = (N, V)>,
        lookup: &dyn Lookup,
    ) -> Result<Query, ApiError> {
        let mut query = Query::default();
        for (name, value) in pairs {
            query
                .add(noun, name.as_ref(), value.as_ref(), lookup)
                .map_err(|text| ApiError::filter(noun.name, text))?;
        }
        Ok(query)
    }

    fn add(&mut self, noun: &'static Noun, name: &str, value: &str, lookup: &dyn Lookup) -> Result<(), String> {
        let names = || {
            value
                .split(',')
                .map(str::trim)
                .filter(|n| !n.is_empty())
                .map(str::to_owned)
                .collect()
        };
        match name {
            "offset" => self.offset = count("Offset", value)?,
            "limit" => self.limit = Some(count("Limit", value)?),
            "reverse" => self.reverse = true,
            "decode" => self.decode = truth(value),
            "aggregate" => self.aggregate = truth(value),
            "slim" => self.slim = names(),
            "params" => self.params = Some(names()),
            // They are for the server, not for the list.
            "force" | "token" => {}
            "sort" => {
                let subject = Subject::named(noun, value, lookup).ok_or_else(|| format!("Not sortable: {value}"))?;
                self.sort.push(subject);
            }
            _ => {
                let subject = Subject::named(noun, name, lookup).ok_or_else(|| format!("Filter not found: {name}"))?;
                let test = subject.test(value)?;
                match self
                    .conditions
                    .iter_mut()
                    .find(|condition| condition.subject == subject)
                {
                    Some(condition) => condition.tests.push(test),
                    None => self.conditions.push(Condition {
                        subject,
                        tests: vec![test],
                    }),
                }
                let tests: usize = self.conditions.iter().map(|condition| condition.tests.len()).sum();
                if tests > MAX_CONDITIONS {
                    return Err(format!("A list takes at most {MAX_CONDITIONS} conditions"));
                }
            }
        }
        Ok(())
    }

    /// Whether the query leaves a list as it is.
    pub fn selects_all(&self) -> bool {
        self.conditions.is_empty() && self.sort.is_empty() && !self.reverse && self.offset == 0 && self.limit.is_none()
    }

    /// Whether it matters what is in the objects: else a list is what lies at some places of all.
    pub fn looks_inside(&self) -> bool {
        !(self.conditions.is_empty() && self.sort.is_empty())
    }

    /// Whether the objects come in another order than that of their keys, forwards or backwards.
    pub fn sorts(&self) -> bool {
        !self.sort.is_empty()
    }

    /// The part of a list that is asked for, out of the objects for which the conditions hold.
    pub fn part<T>(&self, mut items: Vec<T>) -> Vec<T> {
        if self.reverse {
            items.reverse();
        }
        let limit = self.limit.unwrap_or(usize::MAX);
        items.into_iter().skip(self.offset).take(limit).collect()
    }

    /// Whether the conditions hold for an object.
    pub fn matches(&self, noun: &'static Noun, object: &Object, lookup: &dyn Lookup) -> bool {
        self.conditions.iter().all(|condition| {
            let values = condition.subject.values(noun, object, lookup);
            condition.tests.iter().any(|test| test.holds(&values))
        })
    }

    /// The objects that the query asks for, out of `items` in order of their keys. `object` gives the object
    /// of an item.
    pub fn run<T>(
        &self,
        noun: &'static Noun,
        items: Vec<T>,
        object: impl Fn(&T) -> &Object,
        lookup: &dyn Lookup,
    ) -> Vec<T> {
        let mut items = items;
        items.retain(|item| self.matches(noun, object(item), lookup));
        if !self.sort.is_empty() {
            items.sort_by_cached_key(|item| self.rank(noun, object(item), lookup));
        }
        self.part(items)
    }

    /// Where an object stands in the order that is asked for.
    pub fn rank(&self, noun: &'static Noun, object: &Object, lookup: &dyn Lookup) -> Rank {
        let least = |subject: &Subject| {
            let values = subject.values(noun, object, lookup);
            values.into_iter().min_by(Operand::order).unwrap_or(Operand::Nothing)
        };
        Rank(self.sort.iter().map(least).collect())
    }

    /// What conditions and order look at.
    pub fn excerpt(&self, noun: &'static Noun) -> Excerpt {
        let mut excerpt = Excerpt::default();
        excerpt.add(noun.key_field());
        for subject in self
            .conditions
            .iter()
            .map(|condition| &condition.subject)
            .chain(&self.sort)
        {
            match subject {
                Subject::Index(index) if index.kind == IndexKind::Holds => {
                    ["Subnet", "ActiveStart", "ActiveEnd"]
                        .iter()
                        .for_each(|member| excerpt.add(member));
                }
                Subject::Index(index) => index.path.iter().take(1).for_each(|member| excerpt.add(member)),
                Subject::Meta(_) => excerpt.add("Meta"),
                Subject::Param(param, declared) => {
                    excerpt.add_param(param);
                    if *declared != Declared::No {
                        // Where it may come from.
                        ["Profiles", "Stage"].iter().for_each(|member| excerpt.add(member));
                    }
                }
            }
        }
        excerpt
    }

    /// A value of an index that all of the list have.
    pub fn exactly(&self) -> Option<(&'static str, &str)> {
        self.conditions
            .iter()
            .find_map(|condition| match (&condition.subject, &condition.tests[..]) {
                (Subject::Index(index), [Test::Compare(Op::Eq, Operand::Text(value))])
                    if index.kind == IndexKind::String =>
                {
                    Some((index.name, value.as_str()))
                }
                _ => None,
            })
    }
}

/// The place of an object in a sorted list.
#[derive(Debug)]
pub struct Rank(Vec<Operand>);

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        let pairs = self.0.iter().zip(&other.0);
        pairs
            .map(|(mine, theirs)| mine.order(theirs))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Rank {}

fn count(what: &str, value: &str) -> Result<usize, String> {
    match value.parse::<i64>() {
        Ok(number) => usize::try_from(number).map_err(|_| format!("{what} cannot be negative")),
        Err(_) => Err(format!("{what} must be a number")),
    }
}

/// `?decode` and `?decode=true` mean yes.
fn truth(value: &str) -> bool {
    !matches!(value, "false" | "0")
}

impl Subject {
    fn named(noun: &'static Noun, text: &str, lookup: &dyn Lookup) -> Option<Subject> {
        if let Some(index) = noun.index(text) {
            return Some(Subject::Index(index));
        }
        if let Some(key) = text.strip_prefix("Meta.") {
            return Some(Subject::Meta(key.to_owned()));
        }
        let param = text.strip_prefix("Params.").unwrap_or(text);
        if !noun.has_params || !name::is_param_name(param) {
            return None;
        }
        let declared = match lookup.get("params", param) {
            None => Declared::No,
            Some(declared) => {
                let typ = declared
                    .get("Schema")
                    .and_then(|schema| schema.get("type"))
                    .and_then(Value::as_str);
                Declared::Typed(typ.map(str::to_owned))
            }
        };
        Some(Subject::Param(param.to_owned(), declared))
    }

    fn values(&self, noun: &'static Noun, object: &Object, lookup: &dyn Lookup) -> Vec<Operand> {
        match self {
            Subject::Index(index) => {
                if index.kind == IndexKind::Holds {
                    return vec![range_of(index, object)];
                }
                let values = noun.index_values(index, object);
                let read = values.iter().map(|text| read(index, text).unwrap_or(Operand::Nothing));
                // An empty list compares as an empty text does.
                if values.is_empty() {
                    vec![Operand::Nothing]
                } else {
                    read.collect()
                }
            }
            Subject::Meta(key) => {
                let value = object
                    .get("Meta")
                    .and_then(|meta| meta.get(key))
                    .and_then(Value::as_str);
                vec![value.map_or(Operand::Nothing, |text| Operand::Text(text.to_owned()))]
            }
            Subject::Param(param, Declared::No) => {
                let own = object.get("Params").and_then(|params| params.get(param));
                own.map(Operand::of).into_iter().collect()
            }
            Subject::Param(param, Declared::Typed(_)) => {
                let sources = params::sources(noun, object, lookup);
                sources
                    .iter()
                    .find_map(|source| source.get(param))
                    .map(Operand::of)
                    .into_iter()
                    .collect()
            }
        }
    }

    fn test(&self, value: &str) -> Result<Test, String> {
        let call = value.strip_suffix(')').and_then(|rest| rest.split_once('('));
        let Some((function, arguments)) = call else {
            return self.equals(value);
        };
        let one = |op| Ok(Test::Compare(op, self.read(arguments)?));
        let two = || {
            let (low, high) = arguments
                .split_once(',')
                .ok_or_else(|| format!("{function} takes two values"))?;
            Ok::<_, String>((self.read(low.trim())?, self.read(high.trim())?))
        };
        let many = || {
            arguments
                .split(',')
                .map(|argument| self.read(argument.trim()))
                .collect::<Result<Vec<_>, _>>()
        };
        match function {
            "Eq" => one(Op::Eq),
            "Ne" => one(Op::Ne),
            "Lt" => one(Op::Lt),
            "Lte" => one(Op::Lte),
            "Gt" => one(Op::Gt),
            "Gte" => one(Op::Gte),
            "Between" => two().map(|(low, high)| Test::Between(low, high)),
            "Except" => two().map(|(low, high)| Test::Except(low, high)),
            "In" => many().map(Test::In),
            "Nin" => many().map(Test::NotIn),
            "Re" => {
                let regex = RegexBuilder::new(arguments).size_limit(1 << 20).build();
                regex
                    .map(Test::Matches)
                    .map_err(|_| format!("Invalid regular expression: {arguments}"))
            }
            _ => self.equals(value),
        }
    }

    fn equals(&self, value: &str) -> Result<Test, String> {
        match self {
            // Agents ask for the machine that has one of their addresses.
            Subject::Index(IndexDef {
                kind: IndexKind::Mac, ..
            }) if value.contains(',') => value
                .split(',')
                .map(|mac| self.read(mac.trim()))
                .collect::<Result<_, _>>()
                .map(Test::In),
            _ => Ok(Test::Compare(Op::Eq, self.read(value)?)),
        }
    }

    /// A value of the query, in the subject's kind.
    fn read(&self, text: &str) -> Result<Operand, String> {
        match self {
            Subject::Index(index) => read(index, text),
            Subject::Meta(_) => Ok(if text.is_empty() {
                Operand::Nothing
            } else {
                Operand::Text(text.to_owned())
            }),
            Subject::Param(param, Declared::Typed(Some(typ))) => {
                let wrong = |what: &str| format!("{param} must be {what}");
                match typ.as_str() {
                    "boolean" => text.parse().map(Operand::Bool).map_err(|_| wrong("true or false")),
                    "integer" | "number" => text.parse().map(Operand::Number).map_err(|_| wrong("a number")),
                    "string" => Ok(Operand::Text(text.to_owned())),
                    _ => Ok(Operand::of(&serde_json::from_str(text).unwrap_or_else(|_| text.into()))),
                }
            }
            Subject::Param(_, _) => Ok(Operand::of(&serde_json::from_str(text).unwrap_or_else(|_| text.into()))),
        }
    }
}

fn read(index: &IndexDef, text: &str) -> Result<Operand, String> {
    if text.is_empty() && index.kind != IndexKind::Bool {
        return Ok(Operand::Nothing);
    }
    match index.kind {
        IndexKind::String => Ok(Operand::Text(text.to_owned())),
        IndexKind::Mac => Ok(Operand::Text(text.to_ascii_lowercase())),
        IndexKind::Bool => text
            .parse()
            .map(Operand::Bool)
            .map_err(|_| format!("{} must be true or false", index.name)),
        IndexKind::Int => text
            .parse()
            .map(Operand::Int)
            .map_err(|_| format!("{} must be an integer", index.name)),
        IndexKind::Ip | IndexKind::Holds => text.parse().map(Operand::Ip).map_err(|_| match index.name {
            // Each type says it in its own way.
            "Addr" => "Addr must be an IP address".to_owned(),
            "Address" if index.kind == IndexKind::Ip => format!("Invalid address: {text}"),
            _ => format!("Invalid Address: {text}"),
        }),
        IndexKind::Time | IndexKind::Expiry => OffsetDateTime::parse(text, &Rfc3339)
            .map(|at| Operand::Time(at.unix_timestamp_nanos()))
            .map_err(|_| format!("Invalid time: {text}")),
        IndexKind::Cidr => match Network::parse(text) {
            Some(_) => Ok(Operand::Text(text.to_owned())),
            None => Err(format!("Invalid subnet CIDR: {text}")),
        },
        IndexKind::Uuid => match uuid::Uuid::try_parse(text) {
            Ok(uuid) => Ok(Operand::Text(uuid.hyphenated().to_string())),
            Err(_) => Err(format!("Invalid UUID: {text}")),
        },
    }
}

impl Operand {
    /// A param's value. Lists and objects compare as their JSON text.
    fn of(value: &Value) -> Operand {
        match value {
            Value::Null => Operand::Nothing,
            Value::Bool(truth) => Operand::Bool(*truth),
            Value::Number(number) => Operand::Number(number.as_f64().unwrap_or_default()),
            Value::String(text) => Operand::Text(text.clone()),
            other => Operand::Text(other.to_string()),
        }
    }

    fn text(&self) -> String {
        match self {
            Operand::Nothing => String::new(),
            Operand::Bool(truth) => truth.to_string(),
            Operand::Number(number) => number.to_string(),
            Operand::Int(number) => number.to_string(),
            Operand::Ip(address) => address.to_string(),
            Operand::Time(at) => at.to_string(),
            Operand::Range(first, last) => format!("{first}-{last}"),
            Operand::Text(text) => text.clone(),
        }
    }
}

impl Test {
    /// Whether the test holds for a subject with these values: for one of them, or, where the test is a denial,
    /// for all. A param that is not set has no values: it equals nothing, and differs from everything.
    fn holds(&self, values: &[Operand]) -> bool {
        let any = |test: &dyn Fn(&Operand) -> bool| values.iter().any(test);
        match self {
            Test::Compare(Op::Eq, wanted) => any(&|value| value.is(wanted)),
            Test::Compare(Op::Ne, wanted) => !any(&|value| value.is(wanted)),
            Test::Compare(Op::Lt, bound) => any(&|value| value.order(bound).is_lt()),
            Test::Compare(Op::Lte, bound) => any(&|value| value.order(bound).is_le()),
            Test::Compare(Op::Gt, bound) => any(&|value| value.order(bound).is_gt()),
            Test::Compare(Op::Gte, bound) => any(&|value| value.order(bound).is_ge()),
            Test::Between(low, high) => any(&|value| within(value, low, high)),
            Test::Except(low, high) => any(&|value| !within(value, low, high)),
            Test::Matches(regex) => any(&|value| regex.is_match(&value.text())),
            Test::In(wanted) => any(&|value| wanted.contains(value)),
            Test::NotIn(unwanted) => !any(&|value| unwanted.contains(value)),
        }
    }
}

fn within(value: &Operand, low: &Operand, high: &Operand) -> bool {
    value.order(low).is_ge() && value.order(high).is_le()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::lookup::tests::World;
    use crate::noun;

    fn machines() -> Vec<Object> {
        let uuid = |n: u32| format!("00000000-0000-0000-0000-{n:012}");
        [
            json!({"Name": "alpha", "Uuid": uuid(1), "Address": "10.0.0.9", "Runnable": true, "Profiles": ["p1", "p2"],
                   "Params": {"rack": "r1", "level": 5, "mixed": [1]}, "Meta": {"site": "a"}, "HardwareAddrs": ["52:54:00:AA:bb:cc"]}),
            json!({"Name": "beta", "Uuid": uuid(2), "Address": "10.0.0.10", "Workflow": "wf", "Profiles": ["p1"], "Params": {"rack": "r2", "level": 40}}),
            json!({"Name": "gamma", "Uuid": uuid(3), "Runnable": true, "CurrentTask": 7, "Params": {"mixed": true}}),
        ]
        .iter()
        .map(|machine| noun("machines").unwrap().canonical(machine).unwrap())
        .collect()
    }

    fn world() -> World {
        World::default()
            .with(
                "params",
                json!({"Name": "level", "Schema": {"type": "integer", "default": 1}}),
            )
            .with("params", json!({"Name": "inherited", "Schema": {"type": "string"}}))
            .with("profiles", json!({"Name": "p2", "Params": {"inherited": "yes"}}))
    }

    fn pairs(query: &str) -> Vec<(&str, &str)> {
        query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect()
    }

    fn names(query: &str) -> Result<String, String> {
        let (noun, world) = (noun("machines").unwrap(), world());
        let parsed = Query::parse(noun, pairs(query), &world).map_err(|err| err.to_string())?;
        let found = parsed.run(noun, machines(), |machine| machine, &world);
        Ok(found
            .iter()
            .map(|machine| machine["Name"].as_str().unwrap())
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn lists_are_narrowed_sorted_and_cut() {
        for (query, want) in [
            ("", "alpha beta gamma"),
            ("Name=beta", "beta"),
            ("Name=fred", ""),
            ("Name=alpha&Name=gamma", "alpha gamma"),
            ("Name=alpha&Runnable=false", ""),
            ("Runnable=true", "alpha gamma"),
            ("Workflow=", "alpha gamma"),
            ("Address=", "gamma"),
            ("Address=10.0.0.10", "beta"),
            ("Address=Gt(10.0.0.9)", "beta"),
            ("Name=Ne(beta)", "alpha gamma"),
            ("Name=Gte(beta)", "beta gamma"),
            ("Name=Lt(beta)", "alpha"),
            ("Name=Between(alpha,beta)", "alpha beta"),
            ("Name=Except(alpha,beta)", "gamma"),
            ("Name=Re(^[ag])", "alpha gamma"),
            ("Name=In(alpha,gamma)", "alpha gamma"),
            ("Name=Nin(alpha,gamma)", "beta"),
            ("Name=Fred(x)", ""),
            ("Uuid=00000000-0000-0000-0000-000000000002", "beta"),
            ("Key=00000000-0000-0000-0000-000000000003", "gamma"),
            ("Profiles=p1", "alpha beta"),
            ("Profiles=Ne(p2)", "beta gamma"),
            ("HardwareAddr=52:54:00:aa:BB:cc", "alpha"),
            ("HardwareAddr=00:00:00:00:00:00,52:54:00:aa:bb:cc", "alpha"),
            ("CurrentTask=Gt(1)", "gamma"),
            ("rack=r1", "alpha"),
            ("Params.rack=Ne(r1)", "beta gamma"),
            ("level=5", "alpha"),
            ("level=Gt(5)", "beta"),
            ("level=1", ""),
            ("inherited=yes", "alpha"),
            ("mixed=true", "gamma"),
            ("mixed=[1]", "alpha"),
            ("Meta.site=a", "alpha"),
            ("Available=true&Valid=true&ReadOnly=false", "alpha beta gamma"),
            ("sort=Address", "gamma alpha beta"),
            ("sort=Name&reverse=true", "gamma beta alpha"),
            ("reverse", "gamma beta alpha"),
            ("sort=Runnable&sort=Address", "beta gamma alpha"),
            ("sort=level", "gamma alpha beta"),
            ("limit=0", ""),
            ("limit=1&offset=1", "beta"),
            ("offset=10", ""),
            ("sort=Name&reverse=true&offset=1&limit=1", "beta"),
        ] {
            assert_eq!(names(query).as_deref(), Ok(want), "{query}");
        }
    }

    #[test]
    fn what_cannot_be_answered_is_told_in_the_words_of_drp() {
        for (query, want) in [
            ("limit=-10", "Limit cannot be negative"),
            ("offset=-1", "Offset cannot be negative"),
            ("limit=x", "Limit must be a number"),
            ("Available=fred", "Available must be true or false"),
            ("Valid=fred", "Valid must be true or false"),
            ("Runnable=fred", "Runnable must be true or false"),
            ("Address=fred", "Invalid address: fred"),
            ("Uuid=false", "Invalid UUID: false"),
            ("{x=1", "Filter not found: {x"),
            ("sort={x", "Not sortable: {x"),
            ("level=x", "level must be a number"),
            ("Name=Between(a)", "Between takes two values"),
            ("Name=Re([)", "Invalid regular expression: ["),
        ] {
            assert_eq!(names(query), Err(format!("GET: machines: {want}")), "{query}");
        }
        let bootenvs = noun("bootenvs").unwrap();
        let error = Query::parse(bootenvs, [("fred", "1")], &World::default()).unwrap_err();
        assert_eq!(
            (error.code, error.to_string().as_str()),
            (406, "GET: bootenvs: Filter not found: fred")
        );
        assert!(Query::parse(bootenvs, (0..1000).map(|i| ("Name", i.to_string())), &World::default()).is_err());
    }

    #[test]
    fn how_objects_are_shown_is_part_of_the_query() {
        let query = pairs("slim=Params,Meta&params=a,b&decode=true&aggregate=false&force=true");
        let query = Query::parse(noun("machines").unwrap(), query, &World::default()).unwrap();
        assert_eq!(query.slim, ["Params", "Meta"]);
        assert_eq!(query.params, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert!(query.decode && !query.aggregate && query.selects_all());
    }

    /// One test, evaluated as its definition reads.
    fn naive(op: &str, value: &str, a: &str, b: &str) -> bool {
        match op {
            "Eq" => value == a,
            "Ne" => value != a,
            "Lt" => value < a,
            "Lte" => value <= a,
            "Gt" => value > a,
            "Gte" => value >= a,
            "Between" => a <= value && value <= b,
            "Except" => value < a || b < value,
            "In" => value == a || value == b,
            _ => value != a && value != b,
        }
    }

    proptest! {
        #[test]
        fn conditions_hold_as_they_read(
            stages in proptest::collection::vec("[a-c]{1,2}", 0..8),
            tests in proptest::collection::vec(("Eq|Ne|Lt|Lte|Gt|Gte|Between|Except|In|Nin", "[a-c]{1,2}", "[a-c]{1,2}"), 1..4),
        ) {
            let (noun, world) = (noun("machines").unwrap(), World::default());
            let machine = |(at, stage): (usize, &String)| noun.canonical(&json!({"Name": format!("m{at}"), "Stage": stage})).unwrap();
            let all: Vec<_> = stages.iter().enumerate().map(machine).collect();
            let written = tests.iter().map(|(op, a, b)| match op.as_str() {
                "Between" | "Except" | "In" | "Nin" => ("Stage", format!("{op}({a},{b})")),
                _ => ("Stage", format!("{op}({a})")),
            });
            let query = Query::parse(noun, written, &world).unwrap();
            let found = query.run(noun, all.clone(), |m| m, &world);
            let want: Vec<_> = all
                .into_iter()
                .filter(|m| tests.iter().any(|(op, a, b)| naive(op, m["Stage"].as_str().unwrap(), a, b)))
                .collect();
            prop_assert_eq!(found, want);
        }

        #[test]
        fn any_query_is_answered_or_refused(pairs in proptest::collection::vec(("Name|Address|Runnable|Uuid|sort|limit|offset|rack|Meta.a|.{0,5}", "Name|Stage|rack|.{0,12}|(Eq|Re|In|Between|Ne)\\(.{0,6}\\)"), 0..5)) {
            let (noun, world) = (noun("machines").unwrap(), world());
            if let Ok(query) = Query::parse(noun, pairs, &world) {
                prop_assert!(query.run(noun, machines(), |m| m, &world).len() <= 3);
                let excerpt = query.excerpt(noun);
                for machine in machines() {
                    let part = excerpt.read(serde_json::to_string(&machine).unwrap().as_bytes()).unwrap();
                    prop_assert_eq!(query.matches(noun, &machine, &world), query.matches(noun, &part, &world));
                    prop_assert_eq!(query.rank(noun, &machine, &world), query.rank(noun, &part, &world));
                }
            }
        }
    }
}
