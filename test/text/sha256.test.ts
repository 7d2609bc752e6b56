import { createHash } from 'node:crypto'
import fc from '../support/fc.ts'
import { expect, test } from 'vitest'
import { sha256Hex } from '../../src/text/sha256.ts'

const real = (text: string) => createHash('sha256').update(text).digest('hex')

test('the same as node:crypto at every length around the blocks', () => {
  for (let n = 0; n < 200; n++) expect(sha256Hex('x'.repeat(n))).toBe(real('x'.repeat(n)))
})

test('the same as node:crypto for any text', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 300 }), (text) => {
      expect(sha256Hex(text)).toBe(real(text))
    }),
  )
})
