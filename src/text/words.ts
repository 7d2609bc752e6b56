/**
 * A command line as one text, split into words the way a shell does it (POSIX, Shell Command Language 2.2), and nothing more: no
 * variable, no pattern, no pipe. What a shell would act on (`|`, `>`, `$`, `*`) stays what it is.
 */

const BLANK = /[ \t\r\n]/

export function hasBlank(text: string): boolean {
  return BLANK.test(text)
}

/**
 * @returns the words, or a sentence that says why there are none: a quote that is not closed, a backslash at the end
 */
export function splitWords(text: string): { words: string[] } | { fault: string } {
  const words: string[] = []
  let word: string | undefined // '' and nothing are different: `a ''` has two words
  for (let i = 0; i < text.length; i++) {
    const c = text[i]!
    if (BLANK.test(c)) {
      if (word !== undefined) words.push(word)
      word = undefined
    } else if (c === '\\') {
      const next = text[++i]
      if (next === undefined) return { fault: 'it ends in a backslash, which has nothing to escape' }
      if (next !== '\n') word = (word ?? '') + next // backslash and newline: the line goes on
    } else if (c === "'") {
      const end = text.indexOf("'", i + 1)
      if (end === -1) return { fault: `the quote ' at character ${i + 1} is not closed` }
      word = (word ?? '') + text.slice(i + 1, end)
      i = end
    } else if (c === '"') {
      const quoted = doubleQuoted(text, i + 1)
      if (quoted === undefined) return { fault: `the quote " at character ${i + 1} is not closed` }
      word = (word ?? '') + quoted.text
      i = quoted.end
    } else word = (word ?? '') + c
  }
  if (word !== undefined) words.push(word)
  return { words }
}

/** Between double quotes a backslash escapes only $ ` " \ and a newline; before anything else it is itself. */
function doubleQuoted(text: string, from: number): { text: string; end: number } | undefined {
  let out = ''
  for (let i = from; i < text.length; i++) {
    const c = text[i]!
    if (c === '"') return { text: out, end: i }
    const next = text[i + 1]
    if (c === '\\' && next !== undefined && '$`"\\\n'.includes(next)) {
      if (next !== '\n') out += next
      i++
    } else out += c
  }
  return undefined
}

/** Words as one line that a shell, and splitWords, read as those words again; for people to read and copy. */
export function joinWords(words: readonly string[]): string {
  return words.map((w) => (/^[\w@%+=:,./~-]+$/.test(w) ? w : `'${w.replaceAll("'", "'\\''")}'`)).join(' ')
}

/** A command in a sentence: one line, of at most 80 characters. */
export function commandTitle(words: readonly string[]): string {
  const signs = [...joinWords(words).replace(/\s+/g, ' ')]
  return signs.length > 80 ? `${signs.slice(0, 79).join('')}…` : signs.join('')
}

/** Of a very long command the beginning, for files that are read often and whole. */
export function clipWords(words: readonly string[]): string[] {
  const clipped = words.slice(0, 64).map((w) => (w.length > 512 ? `${w.slice(0, 512)}…` : w))
  return words.length > 64 ? [...clipped, '…'] : clipped
}
