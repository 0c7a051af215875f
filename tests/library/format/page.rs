//! Reading `store-format.md`.

use std::ops::Range;

pub struct Page {
    pub text: String,
    pub tables: Vec<Table>,
    headings: Vec<String>,
}

#[derive(Debug)]
pub struct Table {
    /// The heading above it.
    pub heading: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Page {
    pub fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/store-format.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (mut tables, mut headings): (Vec<Table>, Vec<String>) = (Vec::new(), Vec::new());
        let (mut in_table, mut in_code) = (false, false);
        for line in text.lines() {
            in_code ^= line.starts_with("```");
            let is_row = !in_code && line.starts_with('|');
            if !in_code && line.starts_with('#') {
                headings.push(line.trim_start_matches('#').trim().to_string());
            } else if is_row && !in_table {
                tables.push(Table { heading: headings.last().unwrap().clone(), columns: cells(line), rows: Vec::new() });
            } else if is_row && !line.starts_with("|-") {
                let table = tables.last_mut().unwrap();
                let row = cells(line);
                assert_eq!(row.len(), table.columns.len(), "a row of another length: {line}");
                table.rows.push(row);
            }
            in_table = is_row;
        }
        Page { text, tables, headings }
    }

    /// The only table below this heading whose first column has this name.
    pub fn table(&self, heading: &str, first_column: &str) -> &Table {
        let mut found = self.tables.iter().filter(|table| table.heading == heading && table.columns[0] == first_column);
        let table = found.next().unwrap_or_else(|| panic!("the page has no table of {first_column} below {heading:?}"));
        assert!(found.next().is_none(), "two tables of {first_column} below {heading:?}");
        table
    }

    /// The byte table whose heading starts so.
    pub fn bytes_of(&self, heading: &str) -> &Table {
        let found: Vec<&Table> = self.tables.iter().filter(|table| table.is_byte_table() && table.heading.starts_with(heading)).collect();
        assert_eq!(found.len(), 1, "byte tables below {heading:?}");
        found[0]
    }

    /// Links within the page, and the anchors that its headings make.
    pub fn links(&self) -> (Vec<String>, Vec<String>) {
        let links = self.text.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap().to_string()).collect();
        let keep = |c: char| if c == ' ' { Some('-') } else { (c.is_alphanumeric() || c == '-').then_some(c.to_ascii_lowercase()) };
        (links, self.headings.iter().map(|heading| heading.chars().filter_map(keep).collect()).collect())
    }

    /// The script at the end.
    pub fn script(&self) -> &str {
        let (_, rest) = self.text.split_once("```python\n").expect("the page has a script");
        rest.split_once("```").expect("the script ends").0
    }
}

impl Table {
    pub fn is_byte_table(&self) -> bool {
        self.columns.starts_with(&["offset".to_string(), "size".into(), "name".into()])
    }

    /// Checks that each field starts where the one before ends, and gives the total.
    pub fn chain(&self) -> usize {
        self.rows.iter().fold(0, |end, row| {
            let offset: usize = row[0].parse().unwrap_or_else(|_| panic!("{:?}: offset {row:?}", self.heading));
            assert_eq!(offset, end, "{:?}: {row:?} does not start where the field before ends", self.heading);
            offset + row[1].parse::<usize>().unwrap_or_else(|_| panic!("{:?}: size {row:?}", self.heading))
        })
    }

    /// The names of the fields, in order.
    pub fn names(&self) -> Vec<&str> {
        let column = self.columns.iter().position(|column| column == "name").expect("a column of names");
        self.rows.iter().map(|row| row[column].as_str()).collect()
    }

    /// Where a field of a byte table lies.
    pub fn place(&self, name: &str) -> Range<usize> {
        let row = self.rows.iter().find(|row| row[2] == name).unwrap_or_else(|| panic!("{:?} has no field {name}", self.heading));
        let offset: usize = row[0].parse().unwrap();
        offset..offset + row[1].parse::<usize>().unwrap()
    }

    /// The bytes of a field.
    pub fn bytes<'b>(&self, name: &str, of: &'b [u8]) -> &'b [u8] {
        &of[self.place(name)]
    }

    /// The number in a field.
    pub fn number(&self, name: &str, of: &[u8]) -> u64 {
        let mut bytes = [0; 8];
        let field = self.bytes(name, of);
        bytes[..field.len()].copy_from_slice(field);
        u64::from_le_bytes(bytes)
    }
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().strip_prefix('|').and_then(|rest| rest.strip_suffix('|')).unwrap_or_else(|| panic!("no row: {line}"));
    inner.split('|').map(|cell| cell.trim().replace('`', "").replace("&lt;", "<").replace("&gt;", ">")).collect()
}
