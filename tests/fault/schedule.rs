//! Several threads at once. One of them at a time makes its next call of the backend. A seed draws which one, so that every order can come.

use std::sync::{Condvar, Mutex};

use crate::world::Random;

/// Who may call next.
pub struct Baton {
    state: Mutex<(usize, Vec<bool>, Random)>,
    changed: Condvar,
    /// How many calls one makes in a row, on average.
    stride: usize,
}

impl Baton {
    pub fn new(actors: usize, mut random: Random) -> Self {
        let (first, stride) = (random.below(actors), 1 + random.below(12));
        Baton { state: Mutex::new((first, vec![true; actors], random)), changed: Condvar::new(), stride }
    }

    fn pass(state: &mut (usize, Vec<bool>, Random)) {
        let alive: Vec<usize> = (0..state.1.len()).filter(|actor| state.1[*actor]).collect();
        if !alive.is_empty() {
            state.0 = alive[state.2.below(alive.len())];
        }
    }

    pub fn call(&self, me: usize) {
        let mut state = self.state.lock().unwrap();
        if state.0 == me && state.2.below(self.stride) == 0 {
            Self::pass(&mut state);
            self.changed.notify_all();
        }
        while state.0 != me {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn leave(&self, me: usize) {
        let mut state = self.state.lock().unwrap();
        state.1[me] = false;
        if state.0 == me {
            Self::pass(&mut state);
        }
        self.changed.notify_all();
    }
}

/// Leaves also when its actor panics: the others must not wait for ever.
pub struct Turn<'b>(pub &'b Baton, pub usize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}
