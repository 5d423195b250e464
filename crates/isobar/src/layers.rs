//! Content layers from the disk: a file, or a folder with a file for each object.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use isobar_model::content::{self, Pack};

/// Deepest folder of a layer.
const MAX_DEPTH: usize = 16;

/// Reads a layer. One of a folder is of type `local`, unless it says otherwise.
///
/// # Errors
/// What cannot be read, or is no content pack: says which file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Pack> {
    let shown = path.display();
    let mut document = if path.is_dir() {
        let mut files = BTreeMap::new();
        collect(path, path, 0, &mut files).with_context(|| format!("reading the content layer {shown}"))?;
        let tree = files.iter().map(|(name, content)| (name.as_str(), content.as_str()));
        content::from_tree(tree).map_err(anyhow::Error::msg)
    } else {
        let text = fs::read_to_string(path).with_context(|| format!("reading the content layer {shown}"))?;
        content::from_yaml(&text).map_err(anyhow::Error::msg)
    }
    .with_context(|| format!("content layer {shown}"))?;
    if path.is_dir() && document["meta"]["Type"].is_null() {
        document["meta"]["Type"] = "local".into();
    }
    Pack::parse(&document).with_context(|| format!("content layer {shown}"))
}

fn collect(root: &Path, folder: &Path, depth: usize, files: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    if depth > MAX_DEPTH {
        bail!("{}: folders nest too deep", folder.display());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, depth + 1, files)?;
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            files.insert(name.to_owned(), text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_is_a_local_layer_and_a_file_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("layer");
        fs::create_dir_all(folder.join("templates")).unwrap();
        fs::write(folder.join("._Name.meta"), "mine").unwrap();
        fs::write(folder.join("templates/etc.yaml"), "ID: etc\nContents: x").unwrap();
        let pack = read(&folder).unwrap();
        assert_eq!((pack.name(), &pack.meta["Type"]), ("mine", &"local".into()));
        assert_eq!(pack.sections["templates"]["etc"]["Bundle"], "mine");
        let file = dir.path().join("pack.yaml");
        fs::write(&file, "meta: {Name: theirs, Type: default}").unwrap();
        assert_eq!(read(&file).unwrap().meta["Type"], "default");
        fs::write(folder.join("templates/bad.yaml"), "Contents: x").unwrap();
        assert!(format!("{:#}", read(&folder).unwrap_err()).contains("templates/bad.yaml"));
    }
}
