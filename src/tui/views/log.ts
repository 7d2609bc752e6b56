/** A job's log: its last lines, followed while the job runs. */
import { type JobStatus, statusOf } from '../../client/status.ts'
import { readPieces } from '../../client/logs.ts'
import { slice, width } from '../../text/width.ts'
import { logLines, type LogLine } from '../data/log-lines.ts'
import { soon } from '../data/watch.ts'
import { type Line, line } from '../line.ts'
import type { Context, Screen } from '../screen.ts'
import { scroll } from '../scroll.ts'

const mostLines = 10_000
const statusMs = 1000
/** Columns of one step to the side. */
const step = 8
/** Says without colours which stream a line is from. */
const marks = { stdout: '  ', stderr: '! ', agent: '* ' }

export function logScreen(c: Context, job: JobStatus): Screen {
  let lines = logLines(mostLines)
  let status = job
  let follow = true
  let ended = false
  let side = 0
  let hit: { index: number; text: string } | undefined
  let origin = { top: 0, follow: true, side: 0 }
  let top = 0
  let dropped = 0
  let timer: NodeJS.Timeout | undefined
  let reading: AbortController | undefined
  const changed = soon(50, c.changed)
  const text = scroll({
    changed: c.changed,
    moved() {
      follow = false
    },
  })

  async function read(signal: AbortSignal): Promise<void> {
    const place = c.place()
    const o = { follow: true, lines: mostLines, signal, onNotice: lines.note }
    for await (const pieces of readPieces(place, job.id, o)) {
      lines.push(pieces)
      changed()
      // A flood leaves room for keys.
      await new Promise((resolve) => setImmediate(resolve))
    }
    status = (await statusOf(place, job.id)) ?? status
    ended = true
    c.changed()
  }

  function lookAtStatus(): void {
    if (ended) return
    statusOf(c.place(), job.id).then((now) => {
      if (now === undefined || now.state === status.state) return
      status = now
      c.changed()
    }, c.fail)
  }

  function move(top: number): void {
    text.to(top)
    c.changed()
  }

  return {
    name: 'Log viewer',
    title: () => [{ text: ' Log ', paint: 'bold' }, ...line(`${status.name}  ${status.id}`)],
    aside() {
      const n = lines.length()
      const last = lines.dropped() > 0 ? `, the last ${n} lines` : `, ${n} line${n === 1 ? '' : 's'}`
      return line(`${status.state}${last}  follow: ${follow ? 'on' : 'off'}${side > 0 ? `  +${side}` : ''} `)
    },
    show() {
      lines = logLines(mostLines)
      dropped = 0
      ended = false
      reading = new AbortController()
      const { signal } = reading
      timer = setInterval(lookAtStatus, statusMs)
      read(signal).catch((error) => {
        if (!signal.aborted) c.fail(error)
      })
    },
    hide() {
      changed.stop()
      clearInterval(timer)
      reading?.abort(new Error('closed'))
    },
    body({ columns, rows }) {
      const n = lines.length()
      if (n === 0) return [line(ended ? ' The job has written no log.' : ' Nothing has been written yet.', 'dim')]
      const gone = lines.dropped() - dropped
      dropped += gone
      text.shift(gone)
      if (hit !== undefined) hit.index -= gone
      top = text.top(n, rows, follow)
      const out: Line[] = []
      for (let i = top; i < Math.min(n, top + rows); i++)
        out.push(shownLine(lines.line(i), side, columns, hit?.index === i))
      return out
    },
    search: {
      begin() {
        origin = { top, follow, side }
        hit = undefined
      },
      cancel() {
        move(origin.top)
        follow = origin.follow
        side = origin.side
        hit = undefined
      },
      find(wanted, o) {
        const n = lines.length()
        const needle = wanted.toLowerCase()
        const start = o.from === 'next' && hit !== undefined ? hit.index + (o.forward ? 1 : -1) : origin.top
        for (let k = 0; k < n; k++) {
          const i = (((o.forward ? start + k : start - k) % n) + n) % n
          const at = lines.line(i).text.toLowerCase().indexOf(needle)
          if (at === -1) continue
          hit = { index: i, text: wanted }
          const column = width(lines.line(i).text.slice(0, at))
          const { columns, rows } = c.size()
          if (column < side || column + width(wanted) > side + columns - 2) side = Math.max(0, column - 2 * step)
          move(Math.max(0, i - Math.floor(rows / 3)))
          follow = false
          return true
        }
        return false
      },
    },
    bindings: [
      ...text.bindings.filter((b) => !b.keys.includes('G')),
      {
        keys: ['G', 'end'],
        what: 'to the end, and follow what is written',
        run() {
          follow = true
        },
      },
      {
        keys: ['h', 'left'],
        what: 'to the left',
        run() {
          side = Math.max(0, side - step)
        },
      },
      {
        keys: ['l', 'right'],
        what: 'to the right',
        run() {
          side += step
        },
      },
      {
        keys: ['0'],
        what: 'to the beginning of the lines',
        run() {
          side = 0
        },
      },
      {
        keys: ['ctrl+f'],
        what: 'follow what is written, on or off',
        hint: 'follow',
        run() {
          follow = !follow
        },
      },
      { keys: ['esc', 'backspace'], what: 'back', hint: 'back', run: c.back },
    ],
  }
}

function shownLine(l: LogLine, side: number, columns: number, hit: boolean): Line {
  const paint = hit ? 'inverse' : l.stream === 'stderr' ? 'red' : l.stream === 'agent' ? 'dim' : undefined
  const time = l.stream === 'agent' && l.at !== undefined ? `${l.at} ` : ''
  return [
    { text: marks[l.stream], paint },
    { text: slice(time + l.text, side, Math.max(0, columns - 2)), paint },
  ]
}
