//! The list of rows.

use crate::meter::Cost;

/// One line of the report.
pub struct Row {
    /// What the operation is about.
    pub group: &'static str,
    /// Unique in its group; what comparisons over time go by.
    pub name: String,
    body: Box<dyn Fn() -> Cost>,
}

impl Row {
    /// Whether one of the words is part of `GROUP/NAME`, or there are none.
    pub fn is_wanted(&self, words: &[String]) -> bool {
        let name = format!("{}/{}", self.group, self.name);
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    }

    /// Sets up what the operation needs and measures it.
    pub fn measure(&self) -> Cost {
        (self.body)()
    }
}

/// All rows that were added so far.
#[derive(Default)]
pub struct Rows {
    /// In the order of the report.
    pub list: Vec<Row>,
    group: &'static str,
}

impl Rows {
    /// What is added next belongs to this group.
    pub fn group(&mut self, name: &'static str) -> &mut Rows {
        self.group = name;
        self
    }

    /// Adds a row. Its body sets up, measures and cleans up.
    pub fn add(&mut self, name: impl Into<String>, body: impl Fn() -> Cost + 'static) {
        self.list.push(Row { group: self.group, name: name.into(), body: Box::new(body) });
    }
}
