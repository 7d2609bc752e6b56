/**
 * Progress for people, on stderr: a bar per job on a terminal, else one plain line whenever something changed (state,
 * phase, another tenth, or half a minute without news).
 */
import type { JobStatus } from '../spool/index.ts'
import { describe, percentOf, saidOf, statePaint, waitingText } from '../client/describe.ts'
import { openBars } from './bars.ts'
import { painted, plain, wantsColour } from './output.ts'

export { percentOf, saidOf, statePaint, waitingText }

export interface ProgressView {
  update(status: JobStatus): void
  /** a sentence that must not be lost among the bars */
  note(text: string): void
  stop(): void
}

type Stream = NodeJS.WriteStream

export async function progressView(o: { stream?: Stream; quiet?: boolean; jobs?: number } = {}): Promise<ProgressView> {
  const stream = o.stream ?? process.stderr
  if (o.quiet) return { update() {}, note: (text) => stream.write(`${text}\n`), stop() {} }
  // More bars than lines on the screen would only flicker.
  const fits = (o.jobs ?? 1) < (stream.rows || 24) - 2
  return stream.isTTY && process.env.TERM !== 'dumb' && fits ? bars(stream) : lines(stream)
}

function jobLabel(status: JobStatus): string {
  return `${plain(status.name)} (${status.id})`
}

const quietMs = 30_000

function lines(stream: Stream): ProgressView {
  const shown = new Map<string, { key: string; at: number }>()
  return {
    update(status) {
      const percent = percentOf(status)
      const tenth = status.state === 'running' && percent !== undefined ? Math.floor(percent / 10) : -1
      const key = `${status.state} ${status.phase ?? ''} ${tenth} ${status.attempt} ${waitingText(status.waiting_on ?? '')} ${saidOf(status) ?? ''}`
      const before = shown.get(status.id)
      if (before !== undefined && before.key === key && performance.now() - before.at < quietMs) return
      shown.set(status.id, { key, at: performance.now() })
      const head = status.state === 'running' && percent !== undefined ? ` ${Math.floor(percent)} %` : ''
      stream.write(`${jobLabel(status)}:${head} ${describe(status)}\n`)
    },
    note: (text) => {
      stream.write(`${text}\n`)
    },
    stop() {},
  }
}

async function bars(stream: Stream): Promise<ProgressView> {
  const all = await openBars(stream)
  const colour = wantsColour(stream)
  return {
    update(status) {
      const percent = status.state === 'succeeded' ? 100 : (percentOf(status) ?? 0)
      const paint = colour ? statePaint(status.state) : undefined
      const text = describe(status)
      all.show(status.id, percent, {
        percent: `${String(Math.floor(percent)).padStart(3)} %`,
        name: plain(status.name),
        text: paint === undefined ? text : painted(paint, text),
      })
    },
    note: all.log,
    stop: all.stop,
  }
}
