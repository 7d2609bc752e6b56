// Pausing an instance that has no agent here: obeyed is what its own user or root wrote.
import { expect, test } from 'vitest'
import { pauseInstance } from '../../src/client/pause.ts'
import { isPaused, layoutOf, openSpool } from '../../src/spool/index.ts'
import { tempDir } from '../support/temp.ts'

test('an operator is told that nobody would obey him, and nothing is written', async () => {
  await using dir = await tempDir()
  const layout = layoutOf({ root: dir.path, instance: 'held' })
  const spool = await openSpool({ layout, create: true })
  const place = { instance: 'held', layout, spool } as never
  const own = process.geteuid?.() as number
  await expect(pauseInstance(place, true, own + 1)).rejects.toMatchObject({
    exitCode: 77,
    message: expect.stringContaining(`only root and its user (uid ${own}) may pause it`),
  })
  expect(await spool.fs.readdir(layout.control)).toEqual([])
  await pauseInstance(place, true)
  expect(await isPaused(spool)).toBe(true)
})
