//! Error bodies: DSP0266 §8.6 extended error, messages of the Base registry (DSP8011).

use serde_json::{Value, json};

/// The Base registry whose messages we speak.
pub(crate) const REGISTRY: &str = "Base.1.18.1";
const PREFIX: &str = "Base.1.18";

/// A request that was refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    id: String,
    message: String,
    args: Vec<String>,
    resolution: &'static str,
    related: Vec<String>,
}

impl Refused {
    fn new(status: u16, id: &str, message: String, args: &[&str], resolution: &'static str) -> Self {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        Self {
            status,
            id: format!("{PREFIX}.{id}"),
            message,
            args,
            resolution,
            related: Vec::new(),
        }
    }

    /// Points at the member of the request's body that was wrong.
    fn at(mut self, member: &str) -> Self {
        self.related.push(format!("#/{member}"));
        self
    }

    pub(crate) fn with(status: u16, id: Option<&str>, message: Option<&str>) -> Self {
        let message = message.unwrap_or("A general error has occurred.").to_owned();
        let mut refused = Self::new(status, "GeneralError", message, &[], "None.");
        if let Some(id) = id {
            id.clone_into(&mut refused.id);
        }
        refused
    }

    pub(crate) fn general(status: u16, message: impl Into<String>) -> Self {
        Self::new(status, "GeneralError", message.into(), &[], "See the message.")
    }

    pub(crate) fn not_found(kind: &str, id: &str) -> Self {
        let message = format!("The requested resource of type {kind} named '{id}' was not found.");
        Self::new(
            404,
            "ResourceNotFound",
            message,
            &[kind, id],
            "Provide a valid resource identifier.",
        )
    }

    pub(crate) fn method_not_allowed(method: &str) -> Self {
        let message = format!("The operation {method} is not allowed on this resource.");
        Self::new(
            405,
            "OperationNotAllowed",
            message,
            &[],
            "Use one of the methods in the Allow header.",
        )
    }

    pub(crate) fn no_valid_session() -> Self {
        let message = "There is no valid session established with the implementation.".into();
        Self::new(
            401,
            "NoValidSession",
            message,
            &[],
            "Establish a session before attempting any operations.",
        )
    }

    pub(crate) fn unauthorized(path: &str) -> Self {
        let message =
            format!("While accessing the resource at '{path}', the service denied the user name or password.");
        let resolution = "Attempt to ensure that the URI is correct and that the service has the right credentials.";
        Self::new(401, "ResourceAtUriUnauthorized", message, &[path], resolution)
    }

    pub(crate) fn session_limit() -> Self {
        let message = "The session establishment failed due to the number of simultaneous sessions exceeding the limit \
                       of the implementation.";
        let resolution = "Reduce the number of other sessions before trying to establish the session.";
        Self::new(503, "SessionLimitExceeded", message.into(), &[], resolution)
    }

    pub(crate) fn malformed_json() -> Self {
        let message = "The request body submitted was malformed JSON and could not be parsed by the receiving service.";
        Self::new(
            400,
            "MalformedJSON",
            message.into(),
            &[],
            "Ensure that the request body is valid JSON.",
        )
    }

    pub(crate) fn property_unknown(name: &str) -> Self {
        let message = format!("The property {name} is not in the list of valid properties for the resource.");
        Self::new(400, "PropertyUnknown", message, &[name], "Remove the unknown property.").at(name)
    }

    pub(crate) fn property_not_writable(name: &str) -> Self {
        let message = format!("The property {name} is a read-only property and cannot be assigned a value.");
        Self::new(
            400,
            "PropertyNotWritable",
            message,
            &[name],
            "Remove the property from the request body.",
        )
        .at(name)
    }

    pub(crate) fn property_value(name: &str, value: &Value) -> Self {
        let value = value.to_string();
        let message = format!("The value '{value}' for the property {name} is not in the list of acceptable values.");
        let resolution = "Choose a value from the enumeration list that the implementation can support.";
        Self::new(400, "PropertyValueNotInList", message, &[&value, name], resolution).at(name)
    }

    pub(crate) fn property_missing(name: &str) -> Self {
        let message = format!("The property {name} is a required property and must be included in the request.");
        Self::new(
            400,
            "PropertyMissing",
            message,
            &[name],
            "Ensure that the property is in the request body.",
        )
        .at(name)
    }

    pub(crate) fn parameter_missing(action: &str, name: &str) -> Self {
        let message = format!("The action {action} requires the parameter {name} to be present in the request body.");
        let resolution = "Supply the action with the required parameter in the request body.";
        Self::new(400, "ActionParameterMissing", message, &[action, name], resolution).at(name)
    }

    pub(crate) fn parameter_unknown(action: &str, name: &str) -> Self {
        let message = format!("The action {action} was submitted with the invalid parameter {name}.");
        let resolution = "Remove the invalid parameter and resubmit the request.";
        Self::new(400, "ActionParameterUnknown", message, &[action, name], resolution).at(name)
    }

    pub(crate) fn parameter_value(action: &str, name: &str, value: &Value) -> Self {
        let value = value.to_string();
        let message =
            format!("The parameter {name} for the action {action} has the value {value}, which it cannot have.");
        let resolution = "Correct the value for the parameter in the request body and resubmit the request.";
        Self::new(400, "ActionParameterValueError", message, &[name, action], resolution).at(name)
    }

    pub(crate) fn in_use() -> Self {
        let message = "The change to the requested resource failed because the resource is in use or in transition.";
        let resolution = "Eject the inserted media, then submit the request again.";
        Self::new(409, "ResourceInUse", message.into(), &[], resolution)
    }

    pub(crate) fn image(url: &str, why: &str) -> Self {
        let message = format!("The service cannot access the image: {why}.");
        let resolution = "Ensure that the image's server can be reached from the BMC and has the file.";
        Self::new(400, "CouldNotEstablishConnection", message, &[url], resolution).at("Image")
    }

    pub(crate) fn image_format(url: &str) -> Self {
        let message = format!("The resource at '{url}' is in a format not recognized by the service.");
        let resolution = "Place an image or resource or file that is recognized by the service at the URI.";
        Self::new(400, "ResourceAtUriInUnknownFormat", message, &[url], resolution).at("Image")
    }

    pub(crate) fn busy() -> Self {
        let message = "The service is temporarily unavailable.  Retry in 1 seconds.".into();
        Self::new(
            503,
            "ServiceTemporarilyUnavailable",
            message,
            &["1"],
            "Wait for the time given, then retry.",
        )
    }

    pub(crate) fn precondition_failed() -> Self {
        let message = "The ETag supplied did not match the ETag required to change this resource.".into();
        Self::new(
            412,
            "PreconditionFailed",
            message,
            &[],
            "Try the operation again using the appropriate ETag.",
        )
    }

    pub(crate) fn precondition_required() -> Self {
        let message = "A precondition header or annotation is required to change this resource.".into();
        Self::new(
            428,
            "PreconditionRequired",
            message,
            &[],
            "Try the operation again using an If-Match header.",
        )
    }

    /// The body.
    pub(crate) fn body(&self) -> Value {
        let mut info = json!({
            "@odata.type": "#Message.v1_1_2.Message",
            "MessageId": self.id,
            "Message": self.message,
            "MessageArgs": self.args,
            "MessageSeverity": if self.status >= 500 || self.status == 401 { "Critical" } else { "Warning" },
            "Resolution": self.resolution,
        });
        if !self.related.is_empty() {
            info["RelatedProperties"] = json!(self.related);
        }
        json!({"error": {"code": self.id, "message": self.message, "@Message.ExtendedInfo": [info]}})
    }
}
