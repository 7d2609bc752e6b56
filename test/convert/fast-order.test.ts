/**
 * The order of writes that makes a crash harmless, as the kernel sees it: everything but the header, a sync, the header, a sync. Until the
 * header is there the file is no qcow2 to anybody.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { home } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'
import { makeStreamVmdk } from '../support/vmdk-maker.ts'

const node = join(home, 'node_modules/.bin/node')

/** pwrites (offset and first bytes), and syncs, of the image, in the order in which they ended. */
function eventsOf(log: string): { call: string; at: number; magic: boolean }[] {
  const open = new Map<string, string>()
  const events: { call: string; at: number; magic: boolean }[] = []
  for (const line of log.split('\n')) {
    const [, pid, rest] = /^(\d+)\s+(.*)$/.exec(line) ?? []
    if (pid === undefined || rest === undefined) continue
    // a call that another thread's output cuts in two
    const cut = /^(.*) <unfinished \.\.\.>$/.exec(rest)
    if (cut) {
      open.set(pid, cut[1]!)
      continue
    }
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(rest)
    const whole = resumed ? (open.get(pid) ?? '') + resumed[1]! : rest
    const m =
      /^(pwrite64|fsync|fdatasync)\(\d+<[^>]*disk-0\.qcow2>(?:, "([^"]*)"(?:\.\.\.)?, \d+, (\d+))?\)\s+=\s+(\d+)/.exec(
        whole,
      )
    if (m) events.push({ call: m[1]!, at: Number(m[3] ?? -1), magic: m[2]?.startsWith('QFI') ?? false })
  }
  return events
}

test.each([
  ['zero-copy', ['--compress']],
  ['inflate', ['--no-compress']],
])(
  '%s: the header is the last write, between two syncs',
  async (path, options) => {
    await using dir = await tempDir()
    const vmdk = join(dir.path, 'web.vmdk')
    writeFileSync(
      vmdk,
      makeStreamVmdk({ grains: Array.from({ length: 700 }, (_, i) => Buffer.alloc(65536, `line of ${i}\n`)) }),
    )
    const log = join(dir.path, 'strace.log')
    const argv = [
      node,
      join(home, 'src/cli/main.ts'),
      'convert',
      vmdk,
      '-o',
      join(dir.path, 'out'),
      '--direct',
      ...options,
    ]
    const trace = ['-f', '-y', '-s', '16', '-o', log, '-e', 'trace=pwrite64,fsync,fdatasync']
    execFileSync('strace', [...trace, ...argv], { stdio: 'pipe', env: { ...process.env, VMSPOOL_ROOT: dir.path } })
    const report = JSON.parse(readFileSync(join(dir.path, 'out/web.report.json'), 'utf8'))
    expect(report.disks[0].path).toBe(path)

    const events = eventsOf(readFileSync(log, 'utf8'))
    const header = events.findIndex((e) => e.magic)
    expect(header).toBeGreaterThan(0)
    expect(events[header]).toMatchObject({ call: 'pwrite64', at: 0 })
    const before = events.slice(0, header)
    expect(before.filter((e) => e.call === 'pwrite64').length).toBeGreaterThan(path === 'inflate' ? 700 : 3)
    expect(before.filter((e) => e.call === 'pwrite64' && e.at === 0)).toEqual([])
    expect(before.at(-1)!.call).toMatch(/sync$/)
    const after = events.slice(header + 1)
    expect(after.filter((e) => e.call === 'pwrite64')).toEqual([])
    expect(after[0]!.call).toMatch(/sync$/)
  },
  600_000,
)
