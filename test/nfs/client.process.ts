// On the client's host: drops the jobs, has the file server restarted in the middle, audits at the end.
import { spawnSync } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { audit, drop, emptyReport, random } from '../chaos/chaos.ts'
import {
  type Blows,
  CALM,
  END,
  endedCount,
  exists,
  INSTANCE,
  layout,
  reportOf,
  RESTART,
  ROOT,
  setting,
  TOLD,
} from './place.ts'

const jobs = setting('jobs')
const next = random(setting('seed'))
const hosts = ['hv-a', 'hv-b']
const began = performance.now()
const say = (line: string) =>
  process.stdout.write(`client: ${Math.round((performance.now() - began) / 1000)} s  ${line}\n`)

await eventually(
  'the agents have made the spool',
  600,
  async () => (await exists(layout.queue)) && (await exists(layout.output)),
)
const expected = new Map<string, 'done' | 'failed'>()
for (let i = 0; i < jobs; i++) {
  const label = `j${i}`
  const asks = i % 10 === 0
  const name = !asks && next() < 0.25 ? `shared-${Math.floor(next() * 10)}` : label
  const fails = next() < 0.1
  expected.set(label, fails ? 'failed' : 'done')
  const manifest = {
    kind: 'command',
    name,
    priority: i % 10,
    labels: { label },
    // some jobs ask for one of the hosts
    ...(asks ? { hosts: hosts[(i / 10) % 2] } : {}),
    command: { argv: ['/bin/sh', '-c', `read h </proc/sys/kernel/hostname; echo $h; ${fails ? 'exit 3' : 'exit 0'}`] },
  }
  await drop(layout, `${label}.json`, JSON.stringify(manifest), next)
  if (i % 10 === 9) await sleep(200)
}
say(`${jobs} jobs dropped`)

const deadline = performance.now() + setting('minutes') * 60_000
let restart: 'no' | 'asked' | 'done' = 'no'
let shown = 0
let ended = 0
while (performance.now() < deadline) {
  ended = await endedCount()
  if (ended >= shown + 50) {
    shown = ended
    say(`${ended} ended`)
  }
  if (restart === 'no' && ended > jobs / 3) {
    await writeFile(RESTART, '')
    restart = 'asked'
  } else if (restart === 'asked' && !(await exists(RESTART))) restart = 'done'
  if (ended >= jobs && restart === 'done') break
  await sleep(1000)
}
await writeFile(CALM, '')
say(`calm, ${ended} ended`)
await eventually('all jobs have ended', 900, async () => (await endedCount()) >= jobs).catch((e) => say(String(e)))
await writeFile(END, '')
for (const host of hosts) await eventually(`${host} has reported`, 180, () => exists(reportOf(host)))
const blows: Blows[] = []
for (const host of hosts) blows.push(JSON.parse(await readFile(reportOf(host), 'utf8')))

const report = emptyReport(jobs)
await audit(layout, expected, report)
const fsck = spawnSync('/opt/vmspool/bin/vmspool', ['fsck', '--root', ROOT, '--instance', INSTANCE], {
  encoding: 'utf8',
})
report.fsckExit = fsck.status ?? -1
report.fsck = fsck.stdout + fsck.stderr
report.kills = blows.reduce((n, b) => n + b.kills, 0)
report.stops = blows.reduce((n, b) => n + b.stops, 0)
report.duration_ms = performance.now() - began
const told = Object.fromEntries(TOLD.map((t) => [t, blows.reduce((n, b) => n + (b.told[t] ?? 0), 0)]))
// Which host ran what: a job that asked for one prints its name into the job's log.
const wrongHost: string[] = []
for (const [i, label] of [...expected.keys()].entries()) {
  if (i % 10 !== 0) continue
  const { id } = JSON.parse(await readFile(`${layout.output}/${label}.status.json`, 'utf8')) as { id: string }
  const log = await readFile(`${layout.outputJobs}/${id}/log`, 'utf8').catch(String)
  const ran = new Set(log.match(/\bhv-[ab]$/gm))
  const host = hosts[(i / 10) % 2]!
  if (ran.size !== 1 || !ran.has(host))
    wrongHost.push(`${label} ran on ${[...ran].join(' and ')}, not on ${host}: ${log}`)
}
const skew = blows.map((b) => `${b.host} ${Math.round((b.clock - Date.now()) / 60_000)} min`)
process.stdout.write(
  `REPORT ${JSON.stringify({ ...report, wrongHost, asked: Math.ceil(jobs / 10), told, restarted: restart === 'done', skew })}\n`,
)

async function eventually(what: string, seconds: number, f: () => Promise<boolean>): Promise<void> {
  for (let n = 0; n < seconds; n++) {
    if (await f()) return
    await sleep(1000)
  }
  throw new Error(`Not within ${seconds} s: ${what}.`)
}
