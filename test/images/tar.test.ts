/** Archives of every dialect, held against GNU tar, and what no archive should hold. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bufferSource, listTar } from '../../src/images/formats/index.ts'
import { fileSource } from '../../src/images/source.ts'
import { makeTar, paxRecord, type TarDialect, type TarEntry, tarHeader, writeTar } from '../support/ova-maker.ts'

let dir: string
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'vmspool-tar-'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const GiB = 2 ** 30
const file = (name: string, content: Buffer | string = 'content'): TarEntry => ({ name, content: Buffer.from(content) })
const list = (bytes: Buffer) => listTar(bufferSource(bytes))
const refusal = (bytes: Buffer) =>
  list(bytes).then(
    () => 'accepted',
    (e: { code?: string }) => e.code ?? String(e),
  )

describe.each(['ustar', 'gnu', 'pax'] as TarDialect[])('%s', (dialect) => {
  const long = `${'folder/'.repeat(12)}${'n'.repeat(60)}.vmdk`

  test('names and sizes as GNU tar lists them', async () => {
    const entries = [file('./vm.ovf'), file(long, 'x'.repeat(1000)), file('empty', ''), file('ümläut', 'y')]
    for (const always_extend of [false, true]) {
      const bytes = makeTar(entries, { dialect, always_extend })
      writeFileSync(join(dir, 'a.tar'), bytes)
      const theirs = execFileSync('tar', ['--quoting-style=literal', '-tvf', join(dir, 'a.tar')], { encoding: 'utf8' })
      const ours = await list(bytes)
      expect(ours.map((m) => `${m.size} ${m.name}`)).toEqual(
        theirs
          .trim()
          .split('\n')
          .map((l) => l.replace(/^\S+ \S+ +(\d+) \S+ \S+ /, '$1 ')),
      )
      for (const [n, m] of ours.entries())
        expect(bytes.subarray(m.offset, m.offset + m.size).equals(entries[n]!.content as Buffer)).toBe(true)
    }
  })

  test('what lies behind the end does not count', async () => {
    for (const [end_blocks, junk] of [
      [2, Buffer.alloc(4096, 'junk')],
      [1, Buffer.alloc(512, 'junk')],
      [0, Buffer.alloc(0)],
      [20, Buffer.alloc(100_000)],
      [2, makeTar([file('vm.ovf', 'another')])],
    ] as const)
      expect((await list(makeTar([file('vm.ovf')], { dialect, end_blocks, junk }))).length).toBe(1)
    expect(await refusal(makeTar([file('a')], { dialect, end_blocks: 0, junk: Buffer.alloc(512, 'j') }))).toBe(
      'bad-archive',
    )
  })
})

test.each(['gnu', 'pax'] as TarDialect[])('members over 8 GiB in %s, read from a sparse file', async (dialect) => {
  const path = join(dir, `${dialect}.big`)
  const size = 9 * GiB + 700
  const parts = [{ at: size - 3, bytes: Buffer.from('end') }]
  writeTar(path, [{ name: 'big.vmdk', content: { size, parts } }, file('behind', 'b')], { dialect })
  expect(execFileSync('tar', ['-tf', path], { encoding: 'utf8' })).toBe('big.vmdk\nbehind\n')
  await using handle = await open(path, 'r')
  const source = fileSource(handle, (await handle.stat()).size)
  const [big, behind] = await listTar(source)
  expect(big).toMatchObject({ name: 'big.vmdk', size })
  expect((await source.read(big!.offset + size - 3, 3)).toString()).toBe('end')
  expect((await source.read(behind!.offset, 1)).toString()).toBe('b')
})

describe('refused', () => {
  const claim = (e: Partial<TarEntry>) => makeTar([{ ...file('a'), ...e }])
  test.each([
    ['a size beyond the file', claim({ claims: 1e6 }), 'truncated'],
    ['1 PiB in base-256', makeTar([{ ...file('a'), claims: 2 ** 50 }], { dialect: 'gnu' }), 'truncated'],
    ['1 PiB in a pax record', makeTar([{ ...file('a'), claims: 2 ** 50 }], { dialect: 'pax' }), 'truncated'],
    ['a negative size', claim({ size_field: Buffer.alloc(12, 0xff) }), 'bad-archive'],
    [
      'a size of 95 bits',
      claim({ size_field: Buffer.concat([Buffer.from([0x80]), Buffer.alloc(11, 0x7f)]) }),
      'bad-archive',
    ],
    ['a size that is no number', claim({ size_field: Buffer.from('0x1ff\0\0\0\0\0\0\0') }), 'bad-archive'],
    ['a sparse member', claim({ type: 'S' }), 'bad-archive'],
    ['a member in parts', claim({ type: 'M' }), 'bad-archive'],
    ['a link with content', claim({ type: '2', link: '/etc/passwd' }), 'bad-archive'],
    ['a folder with content', claim({ type: '5' }), 'bad-archive'],
    ['an empty file', Buffer.alloc(0), 'not-tar'],
    ['zeros', Buffer.alloc(10_240), 'not-tar'],
    ['something else', Buffer.alloc(10_240, 'KDMV'), 'not-tar'],
  ])('%s', async (_name, bytes, code) => {
    expect(await refusal(bytes)).toBe(code)
  })

  const extended = (body: Buffer, type = 'x') =>
    Buffer.concat([
      tarHeader({ name: 'x', type, content: body }, body.length, {}),
      body,
      Buffer.alloc((512 - (body.length % 512)) % 512),
      makeTar([file('a')]),
    ])
  test.each([
    ['whose length is larger than the header', Buffer.from('999 path=b\n')],
    ['whose length is nothing', Buffer.from('0 path=b\n')],
    ['whose length is negative', Buffer.from('-5 path=b\n')],
    ['without a length', Buffer.from('path=b\n')],
    ['of a size that is no number', paxRecord('size', '7e3')],
    ['of a negative size', paxRecord('size', '-7')],
    ['of a size beyond any number', paxRecord('size', '9'.repeat(30))],
    ['of GNU sparse', paxRecord('GNU.sparse.major', '1')],
    ['over 1 MiB', paxRecord('comment', 'c'.repeat(2 ** 20))],
  ])('a pax record %s', async (_name, body) => {
    expect(await refusal(extended(body))).toBe('bad-archive')
  })

  test('members without end, and extended headers without end', async () => {
    expect(await refusal(makeTar(Array.from({ length: 10_001 }, (_, n) => file(`f${n}`, ''))))).toBe('bad-archive')
    const header = extended(paxRecord('path', 'b')).subarray(0, 1024)
    expect(await refusal(Buffer.concat([...Array(20_100).fill(header), makeTar([file('a')])]))).toBe('bad-archive')
  })

  test('the last record of a kind counts, and an extended header holds for one member only', async () => {
    const body = Buffer.concat([paxRecord('path', 'b'), paxRecord('path', 'c'), paxRecord('mtime', '1.5')])
    const whole = Buffer.concat([extended(body).subarray(0, 1024), makeTar([file('a'), file('d')])])
    expect((await list(whole)).map((m) => m.name)).toEqual(['c', 'd'])
  })
})
