//! Bases and images.
//!
//! A disc is laid out in two parts. The *base* has its descriptors, path tables, directories and files;
//! the *tail* of an image follows it with the machine's own files and with directories that have no
//! room at their old place. What an image changes within the base are whole sectors of metadata, kept
//! as patches. So an image is its base, a few patches and a tail, and planning touches only the
//! directories that own files lie in.

mod base;
mod draft;
mod image;
mod layout;
mod path;
mod planner;
mod reader;

pub use base::{Base, BaseDigest, BaseFile, BaseSpec, BuildError, Content};
pub use image::Image;
pub use path::{PathError, PathProblem};
pub use planner::{OwnFile, PlanError, plan};
pub use reader::ImageReader;
