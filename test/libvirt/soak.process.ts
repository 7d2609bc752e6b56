// A worker brings guests to life and away again, through a link to a QEMU daemon that is killed, frozen and restarted at any moment.
// In the end every call was answered or refused, nothing is left, and the link stands.
import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { isLibvirtError, keepConnected, type Session } from '../../src/libvirt/index.ts'
import { privateLibvirtd } from '../support/libvirtd.ts'
import { until } from '../support/wait.ts'
import { qemuDomain } from './scene.ts'

const SECONDS = Number(process.env.LIBVIRT_SOAK_SECONDS ?? 120)
const WORKERS = 4
const uuidOf = (worker: number) => `00000000-0000-4000-8000-00000000000${worker}`

const count = { rounds: 0, calls: 0, settled: 0, kills: 0, freezes: 0, sessions: 0, events: 0, stuck: 0, orphans: 0 }
const errors = new Map<string, number>()
const seen = (error: unknown) => {
  const e = error as Error & { reason?: string; code?: number; sent?: boolean }
  const what = `${e.name} ${e.reason ?? e.code ?? ''}${e.sent === undefined ? '' : e.sent ? ' (sent)' : ' (not sent)'}`
  errors.set(what, (errors.get(what) ?? 0) + 1)
}

await using daemon = await privateLibvirtd()
await using link = keepConnected(daemon.uri('qemu:///system'), {
  retry_ms: { first: 20, last: 200 },
  keepalive: { interval_ms: 300, misses: 4 },
  quick_ms: 8_000,
  slow_ms: 20_000,
})
let over = false
const watching = (async () => {
  for await (const session of link) {
    count.sessions++
    for await (const _ of session.events) count.events++
  }
})()

/** One call: whatever comes of it, something must. */
async function call<T>(work: Promise<T>): Promise<T> {
  count.calls++
  try {
    return await work
  } finally {
    count.settled++
  }
}

/** From whatever is, to nothing: what an outcome unknown leaves behind is looked at anew, never assumed. */
async function clean(s: Session, uuid: string): Promise<void> {
  const d = await call(s.query.domains.byUuid(uuid))
  if (!d) return
  const { state } = await call(s.query.domains.state(d))
  if (state !== 'shutoff') {
    await call(s.control.domains.destroy(d)).catch((e) => {
      if (!isLibvirtError(e, 'operation_invalid')) throw e
    })
  }
  await call(s.control.domains.undefine(d, ['managed_save', 'nvram'])).catch((e) => {
    if (!isLibvirtError(e, 'no_domain')) throw e
  })
}

async function worker(n: number): Promise<void> {
  const uuid = uuidOf(n)
  while (!over) {
    try {
      const s = await link.session()
      await clean(s, uuid)
      const d = await call(s.control.domains.define(qemuDomain(`soak-${n}`, { uuid })))
      await call(
        s.query.domains.setMetadata(d, 'urn:soak', { prefix: 's', xml: `<round n="${count.rounds}"/>` }, ['config']),
      )
      if (randomInt(3) === 0) await call(s.control.domains.create(d, ['paused']))
      await call(s.query.domains.states())
      await call(s.query.domains.xml(d))
      await clean(s, uuid)
      count.rounds++
    } catch (error) {
      seen(error)
      await sleep(20)
    }
  }
}

const workers = Array.from({ length: WORKERS }, (_, i) => worker(i))
const end = performance.now() + SECONDS * 1000
while (performance.now() < end) {
  await sleep(randomInt(100, 3000))
  if (randomInt(2)) {
    await daemon.signal('KILL')
    count.kills++
    await sleep(randomInt(300))
    await daemon.start()
  } else {
    await daemon.signal('STOP')
    count.freezes++
    await sleep(randomInt(100, 3000))
    await daemon.signal('CONT')
  }
}
over = true
await Promise.all(workers)
let left = ''
await until(
  'no domain is left',
  async () => {
    try {
      const s = await link.session()
      for (let i = 0; i < WORKERS; i++) await clean(s, uuidOf(i))
      const domains = await s.query.domains.list()
      left = JSON.stringify(domains)
      return domains.length === 0
    } catch (error) {
      seen(error)
      left = String(error)
      if ((error as Error).name === 'DeadlineError') {
        // libvirt itself can get stuck over a guest that it took up again in the middle of its start; 11.3 does now and then
        count.stuck++
        await daemon.signal('KILL')
        await daemon.start()
      }
      return false
    }
  },
  { deadline_ms: 180_000, every_ms: 200, also: () => left },
)
const comms = (await daemon.inside(['sh', '-c', 'cat /proc/[0-9]*/comm'])).split('\n')
// killed between starting a QEMU and noting it down, libvirt does not know it any more
count.orphans = comms.filter((p) => p.startsWith('qemu')).length
const s = await link.session()
const load = { query: s.query.load(), control: s.control.load() }
await link.close()
await watching
process.stdout.write(`${SECONDS} s: ${JSON.stringify(count)}\nerrors: ${JSON.stringify(Object.fromEntries(errors))}\n`)
const idle = { queued: 0, running: 0, abandoned: 0 }
const wrong = [
  count.calls === count.settled ? '' : `${count.calls - count.settled} calls were never settled.`,
  count.rounds > 0 && count.sessions > 1 ? '' : 'Nothing happened.',
  JSON.stringify(load) === JSON.stringify({ query: idle, control: idle })
    ? ''
    : `Calls are left: ${JSON.stringify(load)}`,
  [...errors.keys()].some((e) => e.includes('protocol')) ? 'The daemon was misunderstood.' : '',
].filter((w) => w !== '')
for (const w of wrong) process.stdout.write(`✗ ${w}\n`)
process.exitCode = wrong.length === 0 ? 0 : 1
