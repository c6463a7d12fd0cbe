// A script or style sheet of MLflow's page that did not arrive is asked for again. MLflow asks once and then shows
// "Something went wrong" instead of the page, where a browser cancels a request because the machine's network changed
// (Wi-Fi, VPN, a container that starts) or the server is just restarting.
{
  const WAITS = [500, 1000, 2000, 4000]; // ms before each further attempt
  const folder = new URL("../", document.currentScript.src).href; // static-files/
  const attempts = new WeakMap(); // a copy: the page's own element, and how many attempts that makes

  const isFile = (element) =>
    (element instanceof HTMLScriptElement && element.src.startsWith(folder)) ||
    (element instanceof HTMLLinkElement && element.rel === "stylesheet" && element.href.startsWith(folder));

  const copyOf = (element) => {
    const copy = document.createElement(element.localName); // a clone of a script would not run
    for (const { name, value } of element.attributes) copy.setAttribute(name, value);
    return copy;
  };

  const finish = (own, type) => {
    own.dispatchEvent(new Event(type));
    own.remove();
  };

  addEventListener(
    "error",
    (event) => {
      const failed = event.target;
      if (!event.isTrusted || !isFile(failed)) return; // not trusted: ours, below
      const [own, count] = attempts.get(failed) ?? [failed, 0];
      if (failed !== own) failed.remove(); // MLflow would wait for one that it finds with this address
      if (count === WAITS.length) {
        finish(own, "error");
        return;
      }
      event.stopImmediatePropagation(); // before MLflow's handler hears of it
      const copy = copyOf(own);
      attempts.set(copy, [own, count + 1]);
      copy.addEventListener("load", () => {
        finish(own, "load");
        if (copy instanceof HTMLScriptElement) copy.remove();
      });
      setTimeout(() => own.after(copy), WAITS[count]);
    },
    true,
  );
}
