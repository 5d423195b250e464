//! What a row of the route table says of itself, for [`super::openapi`] and for tests that go through all routes.

use isobar_model::Noun;

/// A body, of a request or of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// None.
    Nothing,
    /// Bytes.
    Octets,
    /// Server-Sent Events.
    Stream,
    /// Lines of JSON, as they come.
    Lines,
    /// JSON of this schema.
    Json(String),
    /// A list of such JSON.
    List(String),
}

impl Shape {
    /// JSON of a schema in [`super::openapi`]'s components.
    #[must_use]
    pub fn of(schema: &str) -> Self {
        Self::Json(schema.to_owned())
    }

    /// A list of it.
    #[must_use]
    pub fn list(schema: &str) -> Self {
        Self::List(schema.to_owned())
    }
}

/// A query parameter.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Its name.
    pub name: &'static str,
    /// `string`, `boolean`, `integer`.
    pub typ: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// A query parameter of a type.
pub(super) const fn query(name: &'static str, typ: &'static str, doc: &'static str) -> Query {
    Query { name, typ, doc }
}

pub(super) const AGGREGATE: Query = query("aggregate", "boolean", "With what profiles, stage and defaults give.");
pub(super) const DECODE: Query = query(
    "decode",
    "boolean",
    "Secure params in clear text; needs the right getSecure.",
);
pub(super) const SLIM: Query = query("slim", "string", "Members that come out empty: Params, Meta.");
pub(super) const PARAMS: Query = query("params", "string", "Only these params, with commas between.");
pub(super) const FORCE: Query = query("force", "boolean", "Changes a stage or bootenv in spite of open tasks.");
pub(super) const PLUGIN: Query = query("plugin", "string", "Only actions of this plugin.");
/// What every list takes beside its filters.
pub(super) const LISTING: &[Query] = &[
    query("sort", "string", "Index to sort by; may be repeated."),
    query("reverse", "boolean", "The other way round."),
    query("offset", "integer", "Objects to leave out at the beginning."),
    query("limit", "integer", "Most objects to give."),
    SLIM,
    PARAMS,
    AGGREGATE,
    DECODE,
];

/// What a route takes and gives.
#[derive(Clone, Debug)]
pub struct Doc {
    /// One line.
    pub summary: &'static str,
    /// Query parameters.
    pub query: Vec<Query>,
    /// Body of the request.
    pub takes: Shape,
    /// Statuses of success with their bodies.
    pub gives: Vec<(u16, Shape)>,
    /// Statuses of refusal, beside those that follow from access, path and body.
    pub refuses: Vec<u16>,
    /// Objects that it lists: each index is a filter.
    pub filters: Option<&'static Noun>,
}

impl Default for Doc {
    fn default() -> Self {
        Self {
            summary: "",
            query: Vec::new(),
            takes: Shape::Nothing,
            gives: Vec::new(),
            refuses: Vec::new(),
            filters: None,
        }
    }
}

impl Doc {
    pub(super) fn is(&mut self, summary: &'static str) -> &mut Self {
        self.summary = summary;
        self
    }

    pub(super) fn asks(&mut self, query: &[Query]) -> &mut Self {
        self.query.extend(query);
        self
    }

    pub(super) fn takes(&mut self, shape: Shape) -> &mut Self {
        self.takes = shape;
        self
    }

    pub(super) fn gives(&mut self, status: u16, shape: Shape) -> &mut Self {
        self.gives.push((status, shape));
        self
    }

    pub(super) fn refuses(&mut self, statuses: &[u16]) -> &mut Self {
        self.refuses.extend(statuses);
        self
    }

    pub(super) fn filters(&mut self, noun: &'static Noun) -> &mut Self {
        self.filters = Some(noun);
        self
    }
}
