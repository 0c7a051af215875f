//! Text that compresses like real text: a synthetic vocabulary with Zipf's frequencies and words that like to follow each other.

use std::collections::HashSet;

use super::rng::{Rng, mix};

/// Words in the vocabulary.
const WORDS: usize = 30_000;
/// Of 100 words, how many are drawn from the followers of the word before.
const FOLLOW_PERCENT: u64 = 76;
/// Of 100 words, how many belong to what the text is about.
const TOPIC_PERCENT: u64 = 16;
/// Words that a topic has. This and the two shares set the compression ratio (see `benches/corpus.rs`).
const TOPIC_WORDS: u64 = 16;
const TOPIC_END: u64 = FOLLOW_PERCENT + TOPIC_PERCENT;

const ONSETS: [&str; 24] =
    ["", "b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr", "pr", "ch", "sh", "th", "pl", "gr"];
const VOWELS: [&str; 10] = ["a", "e", "i", "o", "u", "e", "a", "ea", "ou", "io"];
const CODAS: [&str; 12] = ["", "", "n", "r", "s", "t", "l", "nd", "ng", "st", "d", "m"];

/// A language.
pub struct Prose {
    words: Vec<String>,
    /// Of word i, the sum of the weights of the words 0 to i.
    cumulative: Vec<u64>,
    seed: u64,
}

impl Prose {
    /// The language of this seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, "vocabulary");
        let mut seen = HashSet::new();
        let mut words = Vec::with_capacity(WORDS);
        while words.len() < WORDS {
            let syllables = match words.len() {
                0..100 => 1,
                100..2_000 => rng.between(1, 2),
                2_000..10_000 => rng.between(2, 3),
                _ => rng.between(2, 4),
            };
            let word: String = (0..syllables).map(|_| syllable(&mut rng)).collect();
            if word.len() > 1 && seen.insert(word.clone()) {
                words.push(word);
            }
        }
        let mut sum = 0;
        // Zipf-Mandelbrot with the usual shift of 2.7, in whole numbers.
        let weight = |rank: u64| 10_000_000_000_u64 / (10 * rank + 27);
        let cumulative = (0..WORDS as u64).map(|rank| {
            sum += weight(rank);
            sum
        });
        Prose { cumulative: cumulative.collect(), words, seed }
    }

    /// The word to which Zipf's law maps 64 random bits.
    fn sample(&self, bits: u64) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(1);
        let point = u64::try_from((u128::from(bits) * u128::from(total)) >> 64).expect("the upper half of a product fits");
        self.cumulative.partition_point(|&sum| sum <= point)
    }

    fn next_word(&self, rng: &mut Rng, topic: u64, previous: usize) -> usize {
        match rng.below(100) {
            0..FOLLOW_PERCENT => {
                // Each follower is half as frequent as the one before it, so that whole phrases come back.
                let follower = u64::from(rng.next().trailing_zeros());
                self.sample(mix(mix(self.seed ^ previous as u64) ^ follower))
            }
            FOLLOW_PERCENT..TOPIC_END => mix(topic ^ rng.below(TOPIC_WORDS)) as usize % WORDS,
            _ => self.sample(rng.next()),
        }
    }

    /// Appends one sentence with its full stop. Sentences of one topic share words.
    pub fn sentence(&self, rng: &mut Rng, topic: u64, out: &mut String) {
        let count = rng.between(5, 22);
        let mut word = self.sample(rng.next());
        for index in 0..count {
            let text = &self.words[word];
            if index == 0 {
                out.push(text.as_bytes()[0].to_ascii_uppercase().into());
                out.push_str(&text[1..]);
            } else {
                out.push_str(if rng.percent(8) { ", " } else { " " });
                out.push_str(text);
            }
            word = self.next_word(rng, topic, word);
        }
        out.push('.');
    }

    /// At least `bytes` bytes of whole sentences about a topic (any number), a new paragraph now and then.
    pub fn text(&self, rng: &mut Rng, topic: u64, bytes: usize) -> String {
        let mut out = String::with_capacity(bytes + 200);
        loop {
            self.sentence(rng, topic, &mut out);
            if out.len() >= bytes {
                return out;
            }
            out.push(if rng.percent(12) { '\n' } else { ' ' });
        }
    }

    /// One word, frequent ones more often.
    pub fn word(&self, rng: &mut Rng) -> &str {
        &self.words[self.sample(rng.next())]
    }
}

fn syllable(rng: &mut Rng) -> String {
    let mut pick = |from: &[&'static str]| from[rng.below(from.len() as u64) as usize];
    let onset = pick(&ONSETS);
    let vowel = pick(&VOWELS);
    [onset, vowel, pick(&CODAS)].concat()
}
