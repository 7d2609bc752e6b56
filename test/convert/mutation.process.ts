// The long form of test/convert/hostile-fast.test.ts: damaged disks on the file system of the temporary files and on those that clone, where an
// image is made of its source's own blocks. Arguments: how many disks on each (default 8000), and the first seed.
import { randomInt } from 'node:crypto'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { loopFs } from '../support/loop-fs.ts'
import { judge, noTally } from './judge.ts'

const count = Number(process.argv[2] ?? 8000)
const seed = Number(process.argv[3] ?? randomInt(2 ** 30))
const dir = await mkdtemp(join(tmpdir(), 'vs-mutation-'))
let violations = 0

async function run(where: string, home: string, first: number, clones: boolean): Promise<void> {
  const tally = noTally()
  await mkdir(home, { recursive: true })
  for (let n = 0; n < count; n++) {
    try {
      await judge(first + n, home, tally, n % 50 === 0)
    } catch (error) {
      violations++
      process.stdout.write(`${where}: ${(error as Error).message}\n`)
    }
  }
  process.stdout.write(`${where}, seeds ${first} to ${first + count - 1}: ${JSON.stringify(tally)}\n`)
  if (clones && tally.clones === 0) {
    violations++
    process.stdout.write(`${where}: nothing was cloned, so the clone was not tested.\n`)
  }
}

try {
  await run('temporary files', join(dir, 'here'), seed, false)
  for (const [i, type] of (['btrfs', 'xfs'] as const).entries()) {
    await using fs = await loopFs(dir, type, 1)
    await run(type, join(fs.path, 'work'), seed + (i + 1) * count, true)
  }
} finally {
  await rm(dir, { recursive: true, force: true })
}
process.stdout.write(`${violations} violations\n`)
process.exitCode = violations > 0 ? 1 : 0
