//! A long text into which people write: like a mailbox or a log that is edited.

use std::path::Path;

use crate::common::Result;
use crate::common::prose::Prose;
use crate::common::rng::Rng;

/// Bytes for each unit of scale.
const BYTES: usize = 10 << 20;
/// Insertions in a step.
const INSERTIONS: usize = 40;
/// Bytes of one.
const INSERTION: usize = 2 << 10;

/// The text as it is now.
pub struct Text {
    prose: Prose,
    text: String,
}

impl Text {
    /// Its first version.
    pub fn new(scale: u32) -> Self {
        let prose = Prose::new(2);
        let mut rng = Rng::new(2, "text");
        let mut text = String::new();
        while text.len() < BYTES * scale as usize {
            let topic = rng.next();
            text.push_str(&prose.text(&mut rng, topic, 4 << 10));
            text.push('\n');
        }
        Text { prose, text }
    }

    /// Writes something new here and there.
    pub fn step(&mut self, n: u32) {
        let mut rng = Rng::new(u64::from(n), "insertions");
        let mut places: Vec<usize> = (0..INSERTIONS).map(|_| rng.below(self.text.len() as u64) as usize).collect();
        places.sort_unstable();
        let mut next = String::with_capacity(self.text.len() + 2 * INSERTIONS * INSERTION);
        let mut done = 0;
        for place in places {
            next.push_str(&self.text[done..place]);
            let topic = rng.next();
            next.push_str(&self.prose.text(&mut rng, topic, INSERTION));
            done = place;
        }
        next.push_str(&self.text[done..]);
        self.text = next;
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&self, to: &Path) -> Result<()> {
        Ok(std::fs::write(to, &self.text)?)
    }
}
