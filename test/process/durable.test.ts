// What is on the disk before a command starts, and before its end counts: the fsyncs of `vmspool run` and of its shim, as the kernel sees them.
import { spawnSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { layoutOf, openSpool } from '../../src/spool/index.ts'
import { vmspool } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'

/** One `vmspool run` to the end of its shim. @returns paths that were synced, and `start` where the command began; ids and tickets replaced */
async function synced(way: 'short' | 'node', ...options: string[]): Promise<string[]> {
  await using temp = await tempDir()
  const layout = layoutOf({ root: join(temp.path, 'spool'), instance: 'default' })
  await openSpool({ layout, create: true })
  const log = join(temp.path, 'strace')
  const command = [vmspool, 'run', '--root', layout.root, ...options, '/bin/echo', 'x']
  const r = spawnSync('strace', ['-f', '-y', '-qq', '-e', 'trace=fsync,fdatasync,execve', '-o', log, ...command], {
    encoding: 'utf8',
    cwd: temp.path,
    // with a path for its modules bin/vmspool does not trust perl
    env: { PATH: process.env.PATH, HOME: temp.path, ...(way === 'node' ? { PERL5LIB: '/nonexistent' } : {}) },
  })
  expect(r).toMatchObject({ status: 0, stdout: expect.stringContaining('PID') })
  const out: string[] = []
  for (const line of (await readFile(log, 'utf8')).split('\n')) {
    const path = /f(?:data)?sync\(\d+<(.*?)>\)/.exec(line)?.[1]
    if (path?.startsWith(`${layout.root}/`))
      out.push(
        path
          .slice(layout.root.length + 1)
          .replace(/[0-9A-HJKMNP-TV-Z]{26}/, '<id>')
          .replace(/<id>-\S+\.json/, '<record>'),
      )
    else if (line.includes('execve("/bin/echo"')) out.push('start')
  }
  return out
}

test.for(['short', 'node'] as const)('of a command that is started, the %s way', { timeout: 300_000 }, async (way) => {
  const job = 'default/output/jobs/<id>'
  expect(await synced(way)).toEqual([
    job,
    'default/output/jobs',
    'default/jobs/started/.5-<record>.tmp',
    'default/jobs/started',
    `${job}/run/process.json.tmp`,
    'start',
    `${job}/run/exit.json.tmp`,
    `${job}/result.json.tmp`,
    `${job}/status.json.tmp`,
  ])
  expect(await synced(way, '--no-fsync')).toEqual(['start'])
})
