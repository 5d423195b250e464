//! The `.modinfo` section of a kernel module: what `depmod` reads to write its tables.
//!
//! Debian's kernel packages come without `modules.dep` and `modules.alias`; they are made when a kernel is
//! installed, and ours never is. So we read the modules themselves (ELF64, little-endian).

/// What a module says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModInfo {
    /// Names of modules whose symbols it uses.
    pub(crate) depends: Vec<String>,
    /// Globs of device identifiers (`pci:v00008086d0000100E*…`) and other names it answers to.
    pub(crate) aliases: Vec<String>,
    /// Modules, or aliases of modules, to load before it (`softdep: pre:`).
    pub(crate) soft: Vec<String>,
}

/// Reads a module's information; `None` when these bytes are no module.
pub(crate) fn parse(elf: &[u8]) -> Option<ModInfo> {
    let section = section(elf, b".modinfo")?;
    let mut info = ModInfo::default();
    for entry in section.split(|byte| *byte == 0) {
        let Ok(entry) = std::str::from_utf8(entry) else {
            continue;
        };
        match entry.split_once('=') {
            Some(("depends", list)) => {
                info.depends
                    .extend(list.split(',').filter(|name| !name.is_empty()).map(normal));
            }
            Some(("alias", alias)) => info.aliases.push(alias.to_owned()),
            Some(("softdep", text)) => {
                let words = text.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
                info.soft
                    .extend(words.take_while(|word| !word.ends_with(':')).map(normal));
            }
            _ => {}
        }
    }
    Some(info)
}

/// The kernel's form of a module's name: file names have `-` where the kernel has `_`.
pub(crate) fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// Bytes of a section, ELF-64 Object File Format §"Sections".
fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = usize::try_from(u64_at(elf, 0x28)?).ok()?;
    let size = usize::from(u16_at(elf, 0x3a)?);
    let count = usize::from(u16_at(elf, 0x3c)?);
    let names = usize::from(u16_at(elf, 0x3e)?);
    let header = |index: usize| elf.get(table.checked_add(index.checked_mul(size)?)?..);
    let content = |header: &[u8]| {
        let offset = usize::try_from(u64_at(header, 0x18)?).ok()?;
        let len = usize::try_from(u64_at(header, 0x20)?).ok()?;
        elf.get(offset..offset.checked_add(len)?)
    };
    let names = content(header(names)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let name = names.get(usize::try_from(u32_at(header, 0)?).ok()?..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        (name == wanted).then(|| content(header)).flatten()
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// A smallest ELF file with that `.modinfo`, for tests.
#[cfg(test)]
pub(crate) fn fake(modinfo: &[u8]) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[0x28..0x30].copy_from_slice(&64u64.to_le_bytes());
    elf[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
    elf[0x3c..0x3e].copy_from_slice(&2u16.to_le_bytes());
    elf[0x3e..0x40].copy_from_slice(&1u16.to_le_bytes());
    let data = 64 + 2 * 64;
    for (name, offset, len) in [(1u32, data, modinfo.len()), (10, data + modinfo.len(), names.len())] {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(len as u64).to_le_bytes());
        elf.extend_from_slice(&header);
    }
    elf.extend_from_slice(modinfo);
    elf.extend_from_slice(names);
    elf
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_depmod_reads() {
        let elf = fake(
            b"license=GPL\0alias=pci:v00008086d0000100Esv*sd*bc*sc*i*\0alias=fs-x\0depends=virtio,virtio-ring\0\
              softdep=pre: crc32c other post: late\0name=x\0",
        );
        let info = parse(&elf).unwrap();
        assert_eq!(info.depends, ["virtio", "virtio_ring"]);
        assert_eq!(info.aliases, ["pci:v00008086d0000100Esv*sd*bc*sc*i*", "fs-x"]);
        assert_eq!(info.soft, ["crc32c", "other"]);
    }

    #[test]
    fn a_module_without_dependencies_says_so() {
        assert_eq!(parse(&fake(b"depends=\0")).unwrap(), ModInfo::default());
        assert_eq!(parse(b"not a module"), None);
    }

    #[test]
    fn a_section_beyond_all_numbers_is_refused() {
        let mut elf = fake(b"depends=a\0");
        elf[64 + 0x18..64 + 0x28].fill(0xff);
        assert_eq!(parse(&elf), None);
    }

    proptest! {
        #[test]
        fn damaged_modules_are_refused_not_fatal(
            noise in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..20), cut: prop::sample::Index,
        ) {
            let mut elf = fake(b"depends=a,b\0alias=x\0");
            for (at, byte) in noise {
                let at = at.index(elf.len());
                elf[at] = byte;
            }
            elf.truncate(cut.index(elf.len()));
            let _ = parse(&elf);
        }
    }
}
