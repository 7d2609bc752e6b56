import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { nodeFs } from '../../src/spool/fs.ts'
import { groupSync } from '../../src/spool/sync.ts'
import { tempDir } from '../support/temp.ts'

test('all who ask for a listing while one is under way share the next, which has their changes', async () => {
  const folder: string[] = []
  const { promise: slow, resolve: end } = Promise.withResolvers<void>()
  let listings = 0
  const list = groupSync(async () => {
    listings++
    const there = [...folder]
    await slow
    return there
  })
  const first = list('dir')
  folder.push('a')
  const second = list('dir')
  folder.push('b')
  const third = list('dir')
  end()
  expect(await first).toEqual([])
  expect(await second).toEqual(['a', 'b'])
  expect(await third).toEqual(['a', 'b'])
  expect(listings).toBe(2)
})

test('who shares a listing may change it', async () => {
  await using dir = await tempDir()
  await writeFile(join(dir.path, 'a'), '')
  const fs = nodeFs(() => true)
  const listings = await Promise.all([1, 2, 3].map(() => fs.readdirFresh(dir.path)))
  for (const there of listings) expect(there.splice(0)).toEqual(['a'])
})

test('a folder that is gone is no trouble for the next listing of it', async () => {
  await using dir = await tempDir()
  const fs = nodeFs(() => true)
  const sub = join(dir.path, 'sub')
  const gone = await Promise.allSettled([fs.readdirFresh(sub), fs.readdirFresh(sub), fs.readdirFresh(sub)])
  expect(gone.map((g) => g.status === 'rejected' && g.reason.code)).toEqual(['ENOENT', 'ENOENT', 'ENOENT'])
  await mkdir(sub)
  expect(await fs.readdirFresh(sub)).toEqual([])
})
