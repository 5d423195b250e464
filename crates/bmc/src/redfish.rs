//! The Redfish client.
