// What a job may use of the host: read back from the running program, and run into.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { limitedBy } from '../../src/process/index.ts'
import { bed } from '../support/agent.ts'
import { commandManifest } from '../support/manifests.ts'
import { drop, endOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'

const nowhere = { manager: undefined, unit: 'vmspool-x-0', description: 'x' } as const

describe('limits', () => {
  test('are imposed on the program, and nothing else gets in its way', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const shell = 'nice; ionice; ulimit -v; ulimit -n; ulimit -t; ulimit -p; echo "$0 $1"'
    await drop(
      b,
      commandManifest('limited', ['true'], {
        command: {
          argv: ['/bin/sh', '-c', shell, 'zero', 'one two'],
          limits: {
            nice: 7,
            ionice: 'best-effort',
            ionice_level: 6,
            memory: '2G',
            cpu_time: '50s',
            open_files: 77,
            processes: 4000,
            cpu: 0.5,
          },
        },
      }),
    )
    const { id } = await endOf(b, 'limited')
    const log = await readFile(join(b.layout.outputJobs, id, 'log'), 'utf8')
    const said = [...log.matchAll(/ stdout F (.*)$/gm)].map((m) => m[1])
    expect(said).toEqual(['7', 'best-effort: prio 6', String(2 * 1024 * 1024), '77', '50', '4000', 'zero one two'])
    // No systemd here: that the processors are not limited must not go unsaid.
    expect(log).toMatch(/agent F limits\.cpu \(0\.5\) is not imposed: it needs a systemd/)
  })

  test('end what goes beyond them, and the job says how', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { retry: { enabled: false } })
    await b.start()
    const job = (name: string, argv: string[], limits: object) =>
      drop(b, commandManifest(name, argv, { command: { argv, limits } }))
    await job('spin', ['/bin/sh', '-c', 'while :; do :; done'], { cpu_time: 1 })
    await job('hog', ['perl', '-e', '$x = "x" x 300_000_000; print length $x'], { memory: '100M' })
    expect(await endOf(b, 'spin')).toMatchObject({ state: 'failed', signal: expect.stringMatching(/^SIG(XCPU|KILL)$/) })
    expect(await endOf(b, 'hog')).toMatchObject({ state: 'failed', reason: expect.stringMatching(/[Oo]ut of memory/) })
  })

  test.runIf(process.geteuid?.() === 0)('a submitter gets no more than he could have himself', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const { chown, rename, writeFile } = await import('node:fs/promises')
    for (const [name, limits] of [
      ['first', { nice: -5 }],
      ['realtime', { ionice: 'realtime' }],
    ] as const) {
      const file = join(b.layout.queue, `.${name}`)
      await writeFile(file, JSON.stringify(commandManifest(name, ['true'], { command: { argv: ['true'], limits } })))
      await chown(file, 65534, 65534)
      await rename(file, join(b.layout.queue, `${name}.json`))
      expect(await endOf(b, name)).toMatchObject({ state: 'failed', reason: expect.stringMatching(/root alone/) })
    }
  })
})

describe('under systemd', () => {
  const scope = { manager: 'system', unit: 'vmspool-x-0', description: 'job x' } as const

  test('memory, processors and tasks are those of the whole job', () => {
    const { outer, inner, warnings } = limitedBy(
      { memory_bytes: 1 << 30, cpu: 1.5, processes: 20, open_files: 9 },
      scope,
    )
    expect(outer.slice(0, 2)).toEqual(['systemd-run', '--scope'])
    expect(outer.join(' ')).toContain('-p MemoryMax=1073741824 -p MemorySwapMax=0 -p CPUQuota=150% -p TasksMax=20 --')
    expect(inner).toEqual(['prlimit', '--nofile=9', '--'])
    expect(warnings).toEqual([])
  })

  test('there is no scope for what needs none', () => {
    expect(limitedBy({ nice: 5 }, scope)).toEqual({ outer: [], inner: ['nice', '-n', '5'], warnings: [] })
    expect(limitedBy({}, nowhere)).toEqual({ outer: [], inner: [], warnings: [] })
  })
})
