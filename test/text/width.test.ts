import fc from '../support/fc.ts'
import { describe, expect, test } from 'vitest'
import { cell, harmless, slice, width, wrap } from '../../src/text/width.ts'

describe('cells of a terminal', () => {
  test.each([
    ['web-01', 6],
    ['仮想マシン', 10],
    ['e\u0301te\u0301', 3], // combining accents
    ['한글', 4],
    ['𠀀', 2], // a rare ideograph, two UTF-16 units
    ['🚀 ok', 5],
    ['❤', 1],
    ['ﬁ±', 2],
  ])('%s takes %d', (text, cells) => expect(width(text)).toBe(cells))

  test('what terminals disagree about is taken apart', () => {
    expect(harmless('👨\u200d👩\u200d👧')).toBe('👨👩👧')
    expect(harmless('❤\ufe0f')).toBe('❤')
    expect(harmless('👍\u{1f3fd}')).toBe('👍')
    expect(harmless('1\ufe0f\u20e3')).toBe('1\u20e3')
    expect(harmless('soft\u00adhyphen\u200b')).toBe('softhyphen')
    expect(harmless('क\u094d\u200dष')).toBe('क\u094d\u200dष') // a joiner that belongs to the script stays
  })

  test('control characters, bidirectional overrides and lone surrogates are made visible', () => {
    expect(harmless('a\u001b[2Jb\u0007\u202e\ud800')).toBe('a\ufffd[2Jb\ufffd\ufffd\ufffd')
  })
})

test('cut and filled up to the cell, never in the middle of a wide character', () => {
  expect(cell('web', 6)).toBe('web   ')
  expect(cell('web', 6, { right: true })).toBe('   web')
  expect(cell('web-server', 6)).toBe('web-s…')
  expect(cell('web-server', 6, { ellipsis: '~' })).toBe('web-s~')
  expect(cell('仮想マシン', 6)).toBe('仮想 …')
  expect(cell('仮想マシン', 7)).toBe('仮想マ…')
  expect(cell('x', 0)).toBe('')
  expect(slice('仮想マシン', 1, 4)).toBe(' 想 ')
  expect(slice('ae\u0301b', 1, 1)).toBe('e\u0301')
  expect(slice('abc', 5, 3)).toBe('')
})

test('whatever the text, a cell is exactly as wide as asked for', () => {
  const difficult = [
    '仮',
    '한',
    'e\u0301',
    '🚀',
    '👨\u200d👩',
    '❤\ufe0f',
    '👍\u{1f3fd}',
    '🇩🇪',
    'क\u094d\u200dष',
    '\u200b',
    '\ud800',
    '\t',
    '\u001b',
    'ab',
  ]
  const text = fc
    .array(fc.oneof(fc.constantFrom(...difficult), fc.string({ unit: 'binary', maxLength: 2 })))
    .map((parts) => parts.join(''))
  fc.assert(
    fc.property(text, fc.nat(30), fc.nat(30), (raw, cells, from) => {
      const clean = harmless(raw)
      expect(harmless(clean)).toBe(clean)
      expect(width(cell(clean, cells))).toBe(cells)
      expect(width(slice(clean, from, cells))).toBe(Math.max(0, Math.min(cells, width(clean) - from)))
    }),
    { numRuns: 200 },
  )
})

test('wrapped at blanks, and words that are too long in their middle', () => {
  expect(wrap('No agent is listening on this host.', 12)).toEqual(['No agent is', 'listening on', 'this host.'])
  expect(wrap('a\n\nb', 10)).toEqual(['a', '', 'b'])
  expect(wrap('abcdefgh ij', 3)).toEqual(['abc', 'def', 'gh', 'ij'])
  expect(wrap('仮想マシン', 3)).toEqual(['仮', '想', 'マ', 'シ', 'ン'])
  expect(wrap('x', 0)).toEqual([])
})
