// The terminal UI over a spool that lives: a real agent, real commands, and commands without an agent.
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { jobFolder, listJobs } from '../../src/client/status.ts'
import { locate } from '../../src/client/place.ts'
import { cli } from '../cli/run.ts'
import { bed, type Bed, vmspool } from '../support/agent.ts'
import { commandManifest } from '../support/manifests.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { type Pane, pane } from './pane.ts'

const drop = (b: Bed, name: string, argv: string[], more: object = {}): Promise<void> =>
  writeFile(join(b.layout.queue, `${name}.json`), JSON.stringify(commandManifest(name, argv, more)))

/** A server on a port of its own that it tells; perl is part of every Debian. */
const server = [
  'perl',
  '-MIO::Socket::INET',
  '-e',
  '$| = 1; my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die; print $s->sockport, "\\n"; print STDERR "warning\\n"; sleep 600',
]

async function started(p: Pane, b: Bed): Promise<void> {
  await p.type(`clear; ${vmspool} tui --root ${b.dir} --instance ${b.instance}`)
  await p.keys('Enter')
  await p.sees('? help')
}

async function statusNamed(b: Bed, name: string) {
  const place = await locate({ root: b.dir, instance: b.instance })
  return (await listJobs(place)).find((s) => s.name === name)
}

test('jobs come, run, are looked at, followed, stopped, cancelled and run again; the instance is paused', {
  timeout: 600_000,
}, async () => {
  await using dir = await tempDir()
  await using b = await bed(dir.path, { concurrency: { jobs: 3 } })
  b.env.SESSION_SECRET = 'geheim'
  await b.start()
  await using p = await pane(dir.path, { columns: 100, rows: 40, env: b.env })
  await started(p, b)
  await p.sees('No jobs yet.')

  await drop(b, 'server', server)
  await p.sees(/^> server +command +running/m)
  await p.keys('Enter')
  const job = (await until('the job runs', () => statusNamed(b, 'server').then((s) => (s?.pid ? s : undefined))))!
  const log = join(jobFolder(await locate({ root: b.dir, instance: b.instance }), job.id), 'log')
  const port = await until('the port is known', async () => /stdout F (\d+)$/m.exec(await readFile(log, 'utf8'))?.[1])
  const details = await p.sees(`Listening on:    127.0.0.1:${port}`)
  expect(details).toContain(` PID:             ${job.pid}`)
  expect(details).toContain(` Group, session:  ${job.pid}, ${job.pid}`)
  await p.type('G')
  await p.sees(`VMSPOOL_JOB=${job.id}`)
  // One half page after the other, each when it is drawn: how far it is depends on what this test runs in.
  let shown = await p.screen()
  while (!shown.includes('SESSION_SECRET=')) {
    const before = shown
    await p.keys('C-u')
    shown = await until('it scrolls', async () => {
      const now = await p.screen()
      return now === before ? '' : now
    })
    expect(shown).not.toContain('geheim')
  }
  expect(shown).toContain('SESSION_SECRET=********')

  await p.type('l')
  const seen = await p.sees(/^! warning$/m)
  expect(seen).toMatch(new RegExp(`^ {2}${port}$`, 'm'))
  await p.keys('Escape', 'Escape')
  await p.sees(/^> server/m)

  // s ends it: the log that is open says so
  await p.type('l')
  await p.sees('follow: on')
  await p.keys('Escape')
  await p.type('s')
  await p.sees(/^> server +command +cancelled/m)
  expect((await until('its status is final', () => statusNamed(b, 'server')))?.state).toBe('cancelled')

  // Ctrl+K ends what ignores TERM
  await drop(b, 'stubborn', ['/bin/sh', '-c', 'trap "" TERM; echo ready; while :; do sleep 1; done'])
  await p.keys('g')
  await p.sees(/^. stubborn +command +running/m)
  await p.keys('g')
  await p.sees(/^> stubborn/m)
  await p.type('l')
  await p.sees(/^ {2}ready$/m)
  await p.keys('Escape', 'C-k')
  await p.sees(/stubborn \(PID \d+\) was killed/)
  await p.sees(/^> stubborn +command +cancelled/m)

  // a failure, its error, and a retry; r does the same here
  await drop(b, 'fails', ['/bin/sh', '-c', 'echo because >&2; exit 7'], { retry: { max_attempts: 0 } })
  await p.sees(/^. fails +command +failed +\S+ +exit code 7/m)
  await p.keys('g', 'Enter')
  const error = await p.sees('What to do:')
  expect(error).toContain('Exit code:       7')
  await p.keys('Escape')
  await p.type('R')
  await p.sees(/fails .*as a new job|fails was submitted again/)
  await until('there are two of that name', async () => {
    const place = await locate({ root: b.dir, instance: b.instance })
    return (await listJobs(place, { name: 'fails', states: ['failed'] })).length === 2
  })
  await p.sees(/^[> ] fails .*\n[> ] fails /m)

  // p pauses the instance on the disk; what waits is cancelled after a question
  await p.type('p')
  await p.sees('is paused: no more jobs are claimed')
  expect(await readdir(b.layout.control)).toContain('pause')
  await p.sees(`${b.instance}: PAUSED`)
  await drop(b, 'waits', ['true'])
  await p.sees(/^. waits +command +queued/m)
  await p.keys('g')
  await p.sees(/^> waits/m)
  await p.type('c')
  await p.sees('Cancel waits (queued)?')
  await p.type('n')
  await p.losesSight('Cancel waits')
  await p.type('cy')
  await p.sees(/^> waits +command +cancelled/m)

  await p.type('3')
  await p.sees(new RegExp(`^> ${b.instance} +paused`, 'm'))
  await p.type('p')
  await p.sees(new RegExp(`^> ${b.instance} +active`, 'm'))
  expect(await readdir(b.layout.control)).not.toContain('pause')
  await p.type('d')
  await p.sees(`Drain ${b.instance}`)
  await p.type('y')
  await until('the agent has ended', () => !b.agents[0]!.alive())
  await p.sees(new RegExp(`^> ${b.instance} +inactive`, 'm'))
})

test('commands without an agent: their own stop and rerun', async () => {
  await using dir = await tempDir()
  const root = join(dir.path, 's')
  await using _end = {
    async [Symbol.asyncDispose]() {
      await cli(['stop', '--force', 'loop', '--root', root])
    },
  }
  const run = await cli(['run', '--root', root, '--name', 'loop', '--', '/bin/sh', '-c', 'echo "at $$"; sleep 600'])
  expect(run).toMatchObject({ code: 0 })
  await using p = await pane(dir.path, { columns: 100 })
  await p.type(`clear; ${vmspool} tui --root ${root}`)
  await p.keys('Enter')
  await p.sees(/^> loop +command +running .*\/bin\/sh -c/m)
  await p.type('s')
  await p.sees(/loop \(PID \d+\) was stopped/)
  await p.sees(/^> loop +command +cancelled +\S+ +SIGTERM/m)
  await p.type('r')
  const again = await p.sees(/loop runs again: \w{26}, PID \d+/)
  const pid = Number(/runs again: \w{26}, PID (\d+)/.exec(again)![1])
  process.kill(pid, 0)
  await p.sees(/^. loop +command +running/m)
  await p.type('gl')
  await p.sees(`at ${pid}`)
  await p.keys('Escape', 'C-k')
  await p.sees(/loop \(PID \d+\) was killed/)
  expect(() => process.kill(pid, 0)).toThrow('ESRCH')
})
