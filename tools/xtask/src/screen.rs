//! What a terminal shows: enough of ECMA-48 for what shells, editors and pagers send, so that a
//! test can look at the screen as a person does.

/// A screen with its cursor.
pub(crate) struct Screen {
    rows: usize,
    columns: usize,
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// The scrolling region: first row, and one past its last.
    region: (usize, usize),
    saved: (usize, usize),
    state: State,
    /// Bytes of a character that is not complete.
    partial: Vec<u8>,
}

/// Where in a control sequence the input stands.
enum State {
    Text,
    Escape,
    /// After `ESC (` and the like: one byte names a character set.
    Charset,
    /// After `ESC [`: parameters so far.
    Control(String),
    /// After `ESC ]`: up to BEL or ST.
    Title,
}

impl Screen {
    /// An empty screen.
    pub(crate) fn new(rows: usize, columns: usize) -> Screen {
        Screen {
            rows,
            columns,
            cells: vec![vec![' '; columns]; rows],
            row: 0,
            column: 0,
            region: (0, rows),
            saved: (0, 0),
            state: State::Text,
            partial: Vec::new(),
        }
    }

    /// Gives it another size; what no longer fits is gone.
    pub(crate) fn resize(&mut self, rows: usize, columns: usize) {
        let surplus = (self.row + 1).saturating_sub(rows);
        self.cells.drain(..surplus);
        self.row -= surplus;
        self.cells.resize(rows, Vec::new());
        self.cells.iter_mut().for_each(|line| line.resize(columns, ' '));
        (self.rows, self.columns, self.region) = (rows, columns, (0, rows));
        self.column = self.column.min(columns);
    }

    /// The text of a row, without the blanks at its end.
    pub(crate) fn line(&self, row: usize) -> String {
        let cells = self.cells.get(row).map_or(&[][..], Vec::as_slice);
        cells.iter().collect::<String>().trim_end().to_string()
    }

    /// All rows.
    pub(crate) fn lines(&self) -> Vec<String> {
        (0..self.rows).map(|row| self.line(row)).collect()
    }

    /// The text before the cursor in its row.
    pub(crate) fn before_cursor(&self) -> String {
        let cells = self.cells.get(self.row).map_or(&[][..], Vec::as_slice);
        cells.iter().take(self.column).collect()
    }

    /// Shows what a program wrote.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match std::mem::replace(&mut self.state, State::Text) {
                State::Text => self.text(byte),
                State::Escape => self.escape(byte),
                State::Charset => {}
                State::Control(parameters) => self.control_byte(parameters, byte),
                State::Title if byte == 7 => {}
                State::Title if byte == 0x1b => self.state = State::Escape,
                State::Title => self.state = State::Title,
            }
        }
    }

    fn text(&mut self, byte: u8) {
        match byte {
            0x1b => self.state = State::Escape,
            b'\r' => self.column = 0,
            b'\n' | 0x0b | 0x0c => self.line_feed(),
            8 => self.column = self.column.min(self.columns).saturating_sub(1),
            b'\t' => self.column = ((self.column / 8 + 1) * 8).min(self.columns - 1),
            0..0x20 | 0x7f => {}
            _ => {
                self.partial.push(byte);
                match std::str::from_utf8(&self.partial) {
                    Ok(text) => {
                        let shown = text.chars().next().unwrap_or(' ');
                        self.partial.clear();
                        self.put(shown);
                    }
                    Err(error) if error.error_len().is_some() => self.partial.clear(),
                    Err(_) => {}
                }
            }
        }
    }

    fn put(&mut self, shown: char) {
        if self.column >= self.columns {
            self.column = 0;
            self.line_feed();
        }
        if let Some(cell) = self.cells.get_mut(self.row).and_then(|l| l.get_mut(self.column)) {
            *cell = shown;
        }
        self.column += 1;
    }

    fn line_feed(&mut self) {
        if self.row + 1 == self.region.1 {
            self.scroll(self.region.0, 1, Direction::Up);
        } else if self.row + 1 < self.rows {
            self.row += 1;
        }
    }

    /// Moves the rows from `first` to the end of the region; blank rows come in.
    fn scroll(&mut self, first: usize, count: usize, direction: Direction) {
        let end = self.region.1;
        for _ in 0..count.min(end.saturating_sub(first)) {
            let (from, to) = match direction {
                Direction::Up => (first, end - 1),
                Direction::Down => (end - 1, first),
            };
            self.cells.remove(from);
            self.cells.insert(to, vec![' '; self.columns]);
        }
    }

    fn escape(&mut self, byte: u8) {
        match byte {
            b'[' => self.state = State::Control(String::new()),
            b']' => self.state = State::Title,
            b'(' | b')' | b'#' | b'%' => self.state = State::Charset,
            b'7' => self.saved = (self.row, self.column),
            b'8' => (self.row, self.column) = self.saved,
            b'D' => self.line_feed(),
            b'E' => {
                self.column = 0;
                self.line_feed();
            }
            b'M' if self.row == self.region.0 => self.scroll(self.row, 1, Direction::Down),
            b'M' => self.row = self.row.saturating_sub(1),
            b'c' => *self = Screen::new(self.rows, self.columns),
            _ => {}
        }
    }

    fn control_byte(&mut self, mut parameters: String, byte: u8) {
        if (0x40..0x7f).contains(&byte) {
            if !parameters.starts_with(['?', '>', '=']) {
                self.control(&parameters, byte);
            }
            return;
        }
        parameters.push(char::from(byte));
        self.state = State::Control(parameters);
    }

    fn control(&mut self, parameters: &str, last: u8) {
        let numbers: Vec<usize> = parameters.split(';').map(|n| n.parse().unwrap_or(0)).collect();
        let number = |index: usize| numbers.get(index).copied().unwrap_or(0);
        let count = number(0).max(1);
        self.column = self.column.min(self.columns - 1);
        match last {
            b'A' => self.row = self.row.saturating_sub(count),
            b'B' | b'e' => self.row = (self.row + count).min(self.rows - 1),
            b'C' | b'a' => self.column = (self.column + count).min(self.columns - 1),
            b'D' => self.column = self.column.saturating_sub(count),
            b'G' | b'`' => self.column = (count - 1).min(self.columns - 1),
            b'd' => self.row = (count - 1).min(self.rows - 1),
            b'H' | b'f' => {
                self.row = (count - 1).min(self.rows - 1);
                self.column = (number(1).max(1) - 1).min(self.columns - 1);
            }
            b'J' => self.erase_rows(number(0)),
            b'K' => self.erase_cells(number(0)),
            b'L' => self.scroll(self.row, count, Direction::Down),
            b'M' => self.scroll(self.row, count, Direction::Up),
            b'S' => self.scroll(self.region.0, count, Direction::Up),
            b'T' => self.scroll(self.region.0, count, Direction::Down),
            b'P' => self.edit(|line, at| {
                line.drain(at..(at + count).min(line.len()));
            }),
            b'@' => self.edit(|line, at| {
                line.splice(at..at, std::iter::repeat_n(' ', count));
            }),
            b'X' => self.edit(|line, at| line.iter_mut().skip(at).take(count).for_each(blank)),
            b'r' => {
                let end = if number(1) == 0 { self.rows } else { number(1).min(self.rows) };
                self.region = ((count - 1).min(end - 1), end);
                (self.row, self.column) = (0, 0);
            }
            _ => {}
        }
    }

    /// Changes the cursor's row, which keeps its length.
    fn edit(&mut self, change: impl FnOnce(&mut Vec<char>, usize)) {
        let (at, columns) = (self.column, self.columns);
        if let Some(line) = self.cells.get_mut(self.row) {
            change(line, at);
            line.resize(columns, ' ');
        }
    }

    fn erase_rows(&mut self, how: usize) {
        self.erase_cells(how);
        let (first, count) = match how {
            0 => (self.row + 1, self.rows),
            1 => (0, self.row),
            _ => (0, self.rows),
        };
        self.cells.iter_mut().skip(first).take(count).flatten().for_each(blank);
    }

    fn erase_cells(&mut self, how: usize) {
        self.edit(|line, at| match how {
            0 => line.iter_mut().skip(at).for_each(blank),
            1 => line.iter_mut().take(at + 1).for_each(blank),
            _ => line.iter_mut().for_each(blank),
        });
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

fn blank(cell: &mut char) {
    *cell = ' ';
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let mut screen = Screen::new(4, 10);
        screen.feed(text.as_bytes());
        screen.lines()
    }

    #[test]
    fn lines_wrap_and_scroll() {
        assert_eq!(shown("abc\r\ndef"), ["abc", "def", "", ""]);
        assert_eq!(shown("0123456789ab"), ["0123456789", "ab", "", ""]);
        assert_eq!(shown("1\r\n2\r\n3\r\n4\r\n5"), ["2", "3", "4", "5"]);
    }

    #[test]
    fn cursor_moves_and_erases() {
        assert_eq!(shown("abcdef\x1b[3D\x1b[K"), ["abc", "", "", ""]);
        assert_eq!(shown("abcdef\x1b[1;2H\x1b[2P"), ["adef", "", "", ""]);
        assert_eq!(shown("ab\x1b[2;3Hx\x1b[1Ay"), ["ab y", "  x", "", ""]);
        assert_eq!(shown("ab\r\ncd\x1b[H\x1b[J"), ["", "", "", ""]);
        assert_eq!(shown("a\x08\x1b[1mb\x1b[m\x1b]0;title\x07c\u{e9}"), ["bcé", "", "", ""]);
    }

    #[test]
    fn regions_scroll_alone() {
        let text = "1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[3H\nx";
        assert_eq!(shown(text), ["1", "3", "x", "4"]);
        assert_eq!(shown("1\r\n2\x1b[H\x1bM0"), ["0", "1", "2", ""]);
        assert_eq!(shown("1\r\n2\x1b[H\x1b[L0"), ["0", "1", "2", ""]);
    }

    #[test]
    fn smaller_screens_keep_the_cursor() {
        let mut screen = Screen::new(4, 10);
        screen.feed(b"1\r\n2\r\n3\r\n$ ");
        screen.resize(2, 5);
        assert_eq!(screen.lines(), ["3", "$"]);
        assert_eq!(screen.before_cursor(), "$ ");
    }
}
