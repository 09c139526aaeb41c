//! Names of interfaces: one of its own, and others that it is found by.

use alloc::string::String;
use alloc::sync::Arc;

use abi::{Errno, Result};

use crate::devices::{Change, Devices, Inner, NAME_MAX};
use crate::interface::Interface;

impl Inner {
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The name itself, or the first free one of `pattern%d`.
    pub(crate) fn choose_name(&self, pattern: &str) -> Result<String> {
        let name = match pattern.split_once('%') {
            // One number, and nothing else that is special.
            Some((stem, rest)) => {
                let end = rest.strip_prefix('d').filter(|end| !end.contains('%'));
                let end = end.ok_or(Errno::EINVAL)?;
                (0u32..)
                    .map(|number| alloc::format!("{stem}{number}{end}"))
                    .find(|name| !self.has_name(name))
                    .ok_or(Errno::ENFILE)?
            }
            None => String::from(pattern),
        };
        check_name(&name)?;
        if self.has_name(&name) { Err(Errno::EEXIST) } else { Ok(name) }
    }
}

impl Devices {
    /// Gives an interface a name beside its own that it is found by, too.
    ///
    /// # Errors
    /// `EEXIST` if somebody has it, `EINVAL` for none.
    pub fn add_other_name(&self, interface: &Arc<Interface>, name: &str) -> Result<()> {
        let mut inner = self.inner.write();
        if name.is_empty() {
            return Err(Errno::EINVAL);
        }
        if inner.has_name(name) {
            return Err(Errno::EEXIST);
        }
        inner.names.insert(String::from(name), interface.index);
        interface.change_other_names(|all| all.push(String::from(name)));
        Ok(())
    }

    /// Takes a name away that it has beside its own.
    ///
    /// # Errors
    /// `ENOENT` if nobody has it, `EINVAL` if it is another's, or its own.
    pub fn remove_other_name(&self, interface: &Arc<Interface>, name: &str) -> Result<()> {
        let mut inner = self.inner.write();
        let owner = inner.names.get(name).ok_or(Errno::ENOENT)?;
        if *owner != interface.index || interface.is_named(name) {
            return Err(Errno::EINVAL);
        }
        inner.names.remove(name);
        interface.change_other_names(|all| all.retain(|other| other != name));
        Ok(())
    }

    /// Gives an interface another name.
    pub fn rename(&self, interface: &Arc<Interface>, name: &str) -> Result<()> {
        {
            let mut inner = self.inner.write();
            if interface.is_named(name) {
                return Ok(());
            }
            if interface.is_up() {
                return Err(Errno::EBUSY);
            }
            let name = inner.choose_name(name)?;
            inner.names.remove(&interface.name());
            interface.rename(&name);
            inner.names.insert(name, interface.index);
        }
        self.changed(&Change::Interface(interface.clone()));
        Ok(())
    }
}

fn check_name(name: &str) -> Result<()> {
    let is_bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if name.is_empty()
        || name.len() >= NAME_MAX
        || name == "."
        || name == ".."
        || name.contains(is_bad)
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}
