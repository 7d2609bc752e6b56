import { execFileSync } from 'node:child_process'
import fc from '../support/fc.ts'
import { expect, test } from 'vitest'
import { joinWords, splitWords } from '../../src/text/words.ts'

/** What a real shell makes of a line in which nothing is expanded. */
function shell(lines: readonly string[]): string[][] {
  const script = lines.map((l) => `count ${l}\n`).join('')
  const text = execFileSync('/bin/sh', ['-fc', `count() { printf '%s\\0' "$#" "$@"; }\n${script}`]).toString()
  const parts = text.split('\0')
  return lines.map(() => parts.splice(0, Number(parts.shift())))
}

const lines = [
  'sleep 10',
  '  two   words  ',
  `echo 'a b' "c d" e\\ f`,
  `echo "it's" 'say "x"' "a\\"b" 'a\\b' "a\\b" "a\\\\b" "\\$HOME"`,
  `sh -c 'echo a; echo "b"'`,
  `a'b'"c"d ''  ""`,
  'a\\\nb "c\\\nd"',
  '\\a\\ \\\\',
  'tab\tand\t"x\ty"',
  'größe "日 本" 👍',
]

test.each(lines)('as a shell splits it: %j', (line) => {
  expect(splitWords(line)).toEqual({ words: shell([line])[0] })
})

test('any text of quotes, blanks and backslashes is split as a shell splits it', () => {
  const text = fc.string({ unit: fc.constantFrom('a', 'b', ' ', "'", '"', '\\', '\n', '-', 'é'), maxLength: 12 })
  const made = fc.sample(text, { numRuns: 400, seed: 7 }).filter((l) => {
    const r = splitWords(l)
    // A newline between words would end the shell's command.
    return 'words' in r && !/\n/.test(l.replace(/'[^']*'|"(?:\\[\s\S]|[^"\\])*"|\\[\s\S]/g, ''))
  })
  expect(made.length).toBeGreaterThan(50)
  expect(made.map((l) => splitWords(l))).toEqual(shell(made).map((words) => ({ words })))
})

test('what is joined is split into the same words', () => {
  fc.assert(
    fc.property(fc.array(fc.string({ unit: 'binary' })), (words) => {
      expect(splitWords(joinWords(words))).toEqual({ words })
    }),
  )
})

test.each([
  ["echo 'a", "the quote ' at character 6 is not closed"],
  ['echo "a\\"', 'the quote " at character 6 is not closed'],
  ['echo a\\', 'it ends in a backslash, which has nothing to escape'],
])('%j is no command', (line, fault) => {
  expect(splitWords(line)).toEqual({ fault })
})

test('nothing is expanded', () => {
  expect(splitWords('echo $HOME *.txt a|b >c `d`')).toEqual({
    words: ['echo', '$HOME', '*.txt', 'a|b', '>c', '`d`'],
  })
})
