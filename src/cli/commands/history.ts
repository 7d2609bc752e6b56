import { Command, Option } from 'commander'
import type { SearchHit } from '../../history/search.ts'
import { type Column, type Format, formatOption, out, plain, printRows, printValue, say, table } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { age, bytes, duration, parseCount } from '../units.ts'

interface Options extends SpoolOptions {
  output: Format
  all?: boolean
}

export default function define(): Command {
  const command = new Command('history')
    .description(
      'The index of finished jobs (docs/history.md): made from the files of the spools, so it can be deleted and made again at any time.',
    )
    .addHelpText(
      'after',
      `
Examples:
  vmspool history search checksum mismatch      jobs whose error has these words
  vmspool history search '"no space" qcow2*'    words together; all words that begin so
  vmspool history status
  vmspool history rebuild
  vmspool history import                        the tasks of Ghost, from where it keeps them
  sqlite3 -readonly "$(vmspool history status -o name)" \\
    "SELECT command, exit_code FROM tasks WHERE status = 'killed'"`,
    )
  for (const sub of [searchCommand(), statusCommand(), rebuildCommand(), importCommand()]) command.addCommand(sub)
  return command
}

function searchCommand(): Command {
  return spoolOptions(new Command('search'))
    .description('Find jobs by the words of their error, the newest first.')
    .argument('<word...>', 'words that all must be there; "words in quotes" together, wor* for a beginning')
    .addOption(
      new Option('-s, --state <state>', 'only jobs that ended so').choices(['failed', 'cancelled', 'rejected']),
    )
    .option('--kind <kind>', 'only jobs of this kind')
    .option('-a, --all', 'in every spool of the index')
    .option('-n, --limit <count>', 'at most this many; 0 for all', parseCount, 50)
    .addOption(formatOption())
    .action(search)
}

const hitColumns: readonly Column<SearchHit>[] = [
  { title: 'ID', value: (h) => h.id },
  { title: 'NAME', value: (h) => h.name },
  { title: 'KIND', value: (h) => h.kind },
  { title: 'STATE', value: (h) => h.state },
  { title: 'ENDED', value: (h) => (h.finished_at === undefined ? '-' : `${age(h.finished_at)} ago`), right: true },
  { title: 'CODE', value: (h) => h.error.code ?? '-' },
  { title: 'ERROR', value: (h) => short(h.error.message) },
]

function short(text: string): string {
  const line = plain(text.split('\n')[0] ?? '')
  return line.length > 100 ? `${line.slice(0, 99)}…` : line
}

async function search(words: string[], o: Options & { state?: string; kind?: string; limit: number }): Promise<void> {
  const { withIndex } = await import('../../client/history-work.ts')
  const { search: find } = await import('../../history/search.ts')
  const place = await here(o)
  const limit = o.limit === 0 ? 2 ** 31 : o.limit
  const told = telling()
  const hits = await withIndex(place, told, (h, spool) =>
    find(h.db, words.join(' '), {
      limit: limit + 1,
      ...(o.all ? {} : { spool }),
      ...(o.kind === undefined ? {} : { kind: o.kind }),
      ...(o.state === undefined ? {} : { state: o.state }),
    }),
  )
  told.end()
  const shown = hits.slice(0, limit)
  await printRows(o.output, shown, {
    columns: hitColumns,
    name: (h) => h.id,
    empty: `No job ended with an error that has all of these words${o.all ? '' : ` in the spool "${place.instance}"`}.`,
  })
  if (hits.length > shown.length && o.output === 'table') say(`More jobs than the ${limit} shown: see --limit.`)
}

function statusCommand(): Command {
  return spoolOptions(new Command('status'))
    .description('Show where the index is and which spools it covers. `-o name` prints the path of the database.')
    .addOption(formatOption())
    .action(status)
}

async function status(o: Options): Promise<void> {
  const { indexStatus } = await import('../../client/history-work.ts')
  const { historyPath } = await import('../../history/path.ts')
  const place = await here(o, false)
  const found = await indexStatus(place)
  if (o.output === 'name') return out(historyPath(place.history))
  if (o.output !== 'table') return printValue(o.output, found ?? { path: historyPath(place.history), spools: [] })
  if (found === undefined) {
    say(
      `There is no history at ${historyPath(place.history)} yet, or it is of another version: the first question makes it.`,
    )
    return
  }
  out(`${found.path}, ${bytes(found.size_bytes)}\n`)
  out(
    table(
      found.spools,
      [
        { title: 'SPOOL', value: (s) => `${s.root}/${s.instance}` },
        { title: 'JOBS', value: (s) => s.jobs.toLocaleString('en-US'), right: true },
        { title: 'STATE', value: (s) => (s.present ? (s.complete ? 'complete' : 'incomplete') : 'not there') },
        {
          title: 'COMPARED',
          value: (s) => (s.checked_at === undefined ? '-' : `${age(s.checked_at)} ago`),
          right: true,
        },
      ],
      false,
    ),
  )
}

function rebuildCommand(): Command {
  return spoolOptions(new Command('rebuild'))
    .description('Read every finished job of the spool again. Nothing is lost meanwhile, and any number may look.')
    .option('-a, --all', 'every spool of the index; forget those that are not there any more')
    .addOption(formatOption(['table', 'json', 'yaml']))
    .action(rebuild)
}

async function rebuild(o: Options): Promise<void> {
  const work = await import('../../client/history-work.ts')
  const place = await here(o)
  let spools = [place]
  if (o.all) {
    const known = work.knownPlaces(place)
    for (const path of known.forgotten) say(`The spool ${path} is not there any more: it was taken out of the index.`)
    spools = known.spools
  }
  const done = []
  for (const s of spools) {
    const told = telling()
    const r = await work.rebuild(s, told)
    told.end()
    done.push({ root: s.layout.root, instance: s.instance, jobs: r.read, removed: r.removed, took_ms: r.took_ms })
    const rate = Math.round((r.read / Math.max(1, r.took_ms)) * 1000)
    if (o.output === 'table')
      out(
        `${s.layout.root}/${s.instance}: ${r.read.toLocaleString('en-US')} finished jobs in ${duration(r.took_ms)} (${rate.toLocaleString('en-US')} a second)` +
          `${r.removed > 0 ? `, ${r.removed.toLocaleString('en-US')} that are gone taken out` : ''}.`,
      )
  }
  if (o.output !== 'table') await printValue(o.output as 'json' | 'yaml', done)
}

function importCommand(): Command {
  return spoolOptions(new Command('import'))
    .description(
      'Make finished jobs of the tasks in a tasks.db of Ghost, with their logs. It is only read, and what was imported before is not imported again.',
    )
    .argument(
      '[path]',
      'the database or its folder (default: $GHOST_DATA_DIR, $XDG_DATA_HOME/ghost, ~/.local/share/ghost)',
    )
    .addOption(formatOption(['table', 'json', 'yaml']))
    .action(importTasks)
}

async function importTasks(path: string | undefined, o: Options): Promise<void> {
  const { ghostDatabase } = await import('../../history/ghost.ts')
  const { importGhost } = await import('../../history/import.ts')
  const { runPlace } = await import('../../client/run-place.ts')
  const { openSpool } = await import('../../spool/spool.ts')
  const { requireOwnSpool } = await import('../../spool/belongs.ts')
  const database = ghostDatabase(path)
  const { layout } = await runPlace(o)
  requireOwnSpool(
    layout,
    'Tasks would be imported',
    'Choose a spool of your own with --root, or do it as that user (runuser).',
  )
  const spool = await openSpool({ layout, create: true })
  const done = await importGhost(spool, database)
  if (o.output !== 'table') return printValue(o.output as 'json' | 'yaml', { database, ...done })
  out(
    `${database}: ${done.imported} task${done.imported === 1 ? '' : 's'} imported into the spool "${layout.instance}" (${layout.output})` +
      `${done.already > 0 ? `, ${done.already} there already` : ''}.`,
  )
  if (done.lost > 0)
    out(`Of ${done.lost} it is not known how they ended: they count as failed, with the code "exit-unknown" or "lost".`)
  if (done.without_log > 0) out(`The logs of ${done.without_log} do not exist any more.`)
  for (const t of done.running)
    say(`Task ${t.id} still runs (pid ${t.pid}) and was left out. Import again when it has ended.`)
}

async function here(o: SpoolOptions, mustExist = true) {
  const { locateView, requireSpool } = await import('../../client/place.ts')
  const place = await locateView(o)
  if (mustExist) await requireSpool(place, 'read')
  return place
}

/** Long work says how far it is, on stderr: on a terminal in one line, else every ten seconds. */
function telling() {
  const terminal = process.stderr.isTTY === true
  let last = performance.now()
  let shown = false
  return {
    onNote: (sentence: string) => say(sentence),
    onProgress(p: { seen: number; read: number; complete: boolean; took_ms: number }) {
      const text = `${p.seen.toLocaleString('en-US')} finished jobs seen, ${p.read.toLocaleString('en-US')} read, ${Math.round(p.seen / Math.max(0.001, p.took_ms / 1000)).toLocaleString('en-US')} a second`
      if (performance.now() - last < (terminal ? 200 : 10_000)) return
      last = performance.now()
      shown = true
      process.stderr.write(terminal ? `\r\u001b[K${text}` : `${text}\n`)
    },
    end: () => {
      if (shown && terminal) process.stderr.write('\r\u001b[K')
    },
  }
}
