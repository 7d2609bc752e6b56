/**
 * Progress for people, on stderr: a bar per job on a terminal, else one plain line whenever something changed (state,
 * phase, another tenth, or half a minute without news).
 */
import type { JobStatus } from '../spool/index.ts'
import { describe, percentOf, saidOf, statePaint, waitingText } from '../client/describe.ts'
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
  const { default: cliProgress } = await import('cli-progress')
  const multi = new cliProgress.MultiBar(
    {
      stream,
      hideCursor: true,
      clearOnComplete: false,
      stopOnComplete: false,
      emptyOnZero: true,
      autopadding: true,
      barsize: 24,
      fps: 8,
      linewrap: false,
      gracefulExit: false,
      barCompleteChar: '█',
      barIncompleteChar: '░',
      format: ' {bar} {percent} {name}  {text}',
    },
    cliProgress.Presets.shades_classic,
  )
  const colour = wantsColour(stream)
  const open = new Map<string, ReturnType<typeof multi.create>>()
  let stopped = false
  return {
    update(status) {
      const percent = status.state === 'succeeded' ? 100 : (percentOf(status) ?? 0)
      const paint = colour ? statePaint(status.state) : undefined
      const text = describe(status)
      const payload = {
        percent: `${String(Math.floor(percent)).padStart(3)} %`,
        name: plain(status.name),
        text: paint === undefined ? text : painted(paint, text),
      }
      const bar = open.get(status.id)
      if (bar === undefined) open.set(status.id, multi.create(100, percent, payload))
      else bar.update(percent, payload)
    },
    note: (text) => multi.log(`${text}\n`),
    stop() {
      // Once: a second stop would move the cursor up, over what was printed since.
      if (stopped) return
      stopped = true
      multi.update()
      multi.stop()
    },
  }
}
